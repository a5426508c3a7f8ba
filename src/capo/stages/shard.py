"""A shard of samples in the making, and the table it becomes."""

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from capo.prompts import Prompt

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor

ENCODINGS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 1},  # three times faster than the default, a little larger
    "webp": {"format": "WEBP", "quality": 95},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},  # colours as sharp as brightness
}
"""What Pillow is asked for, by `generate.image_format`."""


def encode_image(image: Image.Image, image_format: str) -> bytes:
    """The file of an image in one of `ENCODINGS`."""
    buffer = io.BytesIO()
    image.save(buffer, **ENCODINGS[image_format])
    return buffer.getvalue()


@dataclass
class Shard:
    """The samples of some prompts, ordered by prompt, then sample; filled batch by batch."""

    number: int
    prompts: Sequence[Prompt]
    samples: int
    """Of each prompt."""
    seeds: list[int]
    """One a row."""
    latents: "list[Tensor]" = field(default_factory=list)
    """Batches [B, C, H, W], float32 on the CPU."""
    images: "list[Future[list[bytes]]]" = field(default_factory=list)
    """Their image files, some perhaps not made yet."""

    def add(self, latents: "Tensor", images: "Future[list[bytes]]") -> int:
        """Take a batch; returns how many prompts it completes."""
        rows = sum(map(len, self.latents))
        self.latents.append(latents)
        self.images.append(images)
        return (rows + len(latents)) // self.samples - rows // self.samples

    def table(self) -> "pa.Table":
        """All rows, when their images are made."""
        import pyarrow as pa

        columns = {
            "prompt_id": pa.array(
                [p.prompt_id for p in self.prompts for _ in range(self.samples)], pa.string()
            ),
            "sample": pa.array(list(range(self.samples)) * len(self.prompts), pa.int32()),
            "seed": pa.array(self.seeds, pa.int64()),
        }
        images = [image for batch in self.images for image in batch.result()]
        return sample_table(columns, images)


def sample_table(columns: "Mapping[str, pa.Array]", images: Sequence[bytes]) -> "pa.Table":
    """A row a sample: `columns`, and its image file as what `datasets` and the Hub know for an image."""
    import pyarrow as pa

    features: dict[str, Any] = {}
    for name, column in columns.items():
        dtype = {"double": "float64"}.get(str(column.type), str(column.type))
        features[name] = {"dtype": dtype, "_type": "Value"}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    held = dict(columns) | {"image": pa.array([{"bytes": data, "path": None} for data in images], image)}
    features["image"] = {"_type": "Image"}
    described = json.dumps({"info": {"features": features}})
    return pa.table(held).replace_schema_metadata({"huggingface": described})


def latent_tensors(latents: "Sequence[Tensor]", dtype: "torch.dtype") -> "dict[str, Tensor]":
    """What a shard's latents file holds: [samples, C, H, W], in `dtype` where that loses nothing.

    A sampler in bfloat16 gives float32 numbers that bfloat16 can hold: half the space for the same.
    """
    import torch

    whole = torch.cat(list(latents))
    narrow = whole.to(dtype)
    return {"latents": narrow if torch.equal(narrow.to(whole.dtype), whole) else whole}
