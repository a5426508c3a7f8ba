"""Policies as files for other programs: whole models, and LoRAs in kohya's format."""

from pathlib import Path
from typing import Any, Literal

import torch

from capo.diffusion import load_family
from capo.diffusion.family import Family
from capo.diffusion.kohya import write_kohya
from capo.diffusion.lora_loading import merge_adapter
from capo.diffusion.original_layout import original_file
from capo.diffusion.policy import load_policy
from capo.diffusion.saved import find_policy
from capo.recipe import ModelSection
from capo.store import atomic

Layout = Literal["diffusers", "single-file", "kohya"]


def export_policy(policy: Path, to: Path, layout: Layout, base: str | None = None) -> None:
    """Write a policy folder, or the best policy of a run, to the new path `to`.

    `diffusers` is a folder with the whole pipeline, the LoRA and those of `model.loras` merged; `single-file`
    is the same in the original layout of SD 1.x and SDXL; `kohya` is the LoRA alone. `base` is the current
    location of the policy's base model, if it has moved. Raises `ValueError` for a policy that the layout
    cannot express, or if `to` exists.
    """
    saved = find_policy(policy)
    if "model" not in saved.record:
        raise ValueError(f"{saved.folder}: its capo.json has no field model; train that policy again")
    moved = {} if base is None else {"checkpoint": base}
    model = ModelSection(**(saved.record["model"] | moved))
    saved.check_base(model)
    if to.exists():
        raise ValueError(f"{to} exists already; name another path with --to, or remove it")
    if layout == "kohya" and saved.record["adaptation"] != "lora":
        raise ValueError(f"{saved.folder} is a full model; only a LoRA has kohya's format")
    family = load_family(model, torch.device("cpu"))
    if layout == "single-file":
        _check_original(family)
    load_policy(family, saved.folder)
    if layout == "kohya":
        _write_kohya(family, saved.folder, to)
        return
    if saved.record["adaptation"] == "lora":
        for network in family.networks.values():
            merge_adapter(network, 1.0)
    if layout == "diffusers":
        with atomic.create_folder(to) as folder:
            family.save_pipeline(folder)
    else:
        with atomic.write_file(to) as file:
            original_file(family.networks, file)


def _write_kohya(family: Family, policy: Path, to: Path) -> None:
    with atomic.write_file(to) as file:
        if not write_kohya(family.denoiser, file):
            kind = type(family.denoiser).__name__
            raise ValueError(f"{policy} adapts modules of a {kind} that kohya's format has no names for")


def _check_original(family: Family) -> None:
    """Raise `ValueError` for models whose original layout `original_file` does not write."""
    kind = family.pipeline_class.__name__
    encoder: Any = family.networks.get("text_encoder")
    plain = kind == "StableDiffusionPipeline" and encoder.config.hidden_act == "quick_gelu"
    if not plain and kind != "StableDiffusionXLPipeline":
        raise ValueError(
            f"--layout: a single file can be written of SD 1.x and SDXL only, not of a {kind} like this; use "
            "diffusers"
        )
