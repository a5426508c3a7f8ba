"""The shipped rewards: each an architecture of this package and the weights it is known by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent.parent / "shapes" / "checkpoints"


@dataclass(frozen=True)
class Shipped:
    """A shipped reward, and what one wants to know before choosing it."""

    architecture: str
    """`module:Class` in `capo.rewards`; called with (name, checkpoint, device, processor, **options)."""
    checkpoint: str
    """A directory, or a Hub id as `owner/name@revision`."""
    measures: str
    """What its score says of an image, in a line."""
    scale: str
    """The usual range of its raw scores."""
    license: str
    """Of the weights, as an SPDX identifier where there is one."""
    parameters: float
    """How many, in millions: 4 MB of memory each in float32, 2 in bfloat16."""
    processor: str | None = None
    """Where its tokenizer and image processor are, when not with the weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the architecture, where they differ from its defaults."""


SHIPPED = {
    "pickscore": Shipped(
        "clip:ClipPreference",
        "yuvalkirstain/PickScore_v1",
        "which image of a prompt people prefer, learnt from Pick-a-Pic",
        scale="16 to 25",
        license="MIT",
        parameters=986,
        processor="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    "vqascore": Shipped(
        "vqa:VqaScore",
        "llava-hf/llava-1.5-7b-hf",
        "how likely a large vision-language model finds it that the image shows its prompt",
        scale="0 to 1",
        license="LLAMA-2",
        parameters=7063,
    ),
    "shapes-preference": Shipped(
        "clip:ClipPreference",
        str(EMBEDDED / "preference"),
        "which image of a prompt simulated people prefer",
        scale="log-odds",
        license="Apache-2.0",
        parameters=0.87,
    ),
    "shapes-vqa": Shipped(
        "decoder_vqa:DecoderVqaScore",
        str(EMBEDDED / "vqa"),
        "how likely a small model that answers questions finds it that the image shows its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=1.3,
    ),
    "shapes-aesthetic": Shipped(
        "aesthetic:AestheticRating",
        str(EMBEDDED / "aesthetic"),
        "how good simulated people find an image, blind to its prompt",
        scale="1 to 10",
        license="Apache-2.0",
        parameters=0.16,
    ),
    "shapes-heldout": Shipped(
        "clip:ClipPreference",
        str(EMBEDDED / "heldout"),
        "as shapes-preference, of another seed and size: for evaluation only",
        scale="log-odds",
        license="Apache-2.0",
        parameters=1.3,
    ),
}
