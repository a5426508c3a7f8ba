"""Checks that a family can give a checkpoint's networks their inputs."""

from collections.abc import Mapping
from typing import Any


def check_tokens(family: Any, chosen: int | None) -> None:
    """Raise `ValueError` for a `model.max_sequence_length` that the class `family` cannot use."""
    name = family.pipeline_class.__name__
    if chosen is not None and family.sequence_length is None:
        raise ValueError(
            f"model.max_sequence_length: the text encoders of a {name} read a fixed number of tokens; remove "
            "this field"
        )
    if chosen is not None and chosen > (family.longest_sequence or chosen):
        raise ValueError(
            f"model.max_sequence_length: {chosen} is more than the {family.longest_sequence} of a {name}"
        )


def check_inputs(name: str, config: Mapping[str, Any], expected: int) -> None:
    """Raise `ValueError` unless the denoiser `name` takes a latent of `expected` channels and no guidance."""
    if config.get("time_cond_proj_dim"):
        raise ValueError(
            "model.checkpoint: it is a latent consistency model, whose network takes the guidance scale as "
            "an input; use the model it was distilled from"
        )
    channels = config.get("in_channels", expected)
    if channels != expected:
        raise ValueError(
            f"model.checkpoint: its {name} takes {channels} channels, not {expected}: it is for inpainting "
            "or editing an image, not for making one from text"
        )
