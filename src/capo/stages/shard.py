"""A shard of samples in the making, and the table it becomes."""

import io
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from capo.prompts import Prompt

if TYPE_CHECKING:
    import pyarrow as pa
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

    def table(self, keep_latents: bool) -> "pa.Table":
        """All rows, when their images are made, with the image feature that `datasets` and the Hub know."""
        import pyarrow as pa
        import torch

        images = [{"bytes": image, "path": None} for batch in self.images for image in batch.result()]
        columns: dict[str, pa.Array] = {
            "prompt_id": pa.array(
                [p.prompt_id for p in self.prompts for _ in range(self.samples)], pa.string()
            ),
            "sample": pa.array(list(range(self.samples)) * len(self.prompts), pa.int32()),
            "seed": pa.array(self.seeds, pa.int64()),
            "image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        }
        features: dict[str, Any] = {
            name: {"dtype": str(columns[name].type), "_type": "Value"}
            for name in ("prompt_id", "sample", "seed")
        }
        features["image"] = {"_type": "Image"}
        metadata = {}
        if keep_latents:
            latents = torch.cat(self.latents)
            offsets = pa.array(range(0, latents.numel() + 1, latents[0].numel()), pa.int32())
            columns["latent"] = pa.ListArray.from_arrays(offsets, pa.array(latents.flatten().numpy()))
            features["latent"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
            metadata["latent_shape"] = json.dumps(list(latents.shape[1:]))
        metadata["huggingface"] = json.dumps({"info": {"features": features}})
        return pa.table(columns).replace_schema_metadata(metadata)
