"""A shard of samples in the making, and the table it becomes."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from capo.images.disk_space import READABLE_BYTES, size
from capo.prompts import Prompt
from capo.rewards import Scored

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


class Row(NamedTuple):
    """A sample of a shard."""

    prompt: int
    """Place of its prompt in the shard."""
    sample: int
    seed: int


@dataclass
class Shard:
    """The samples of some prompts in the making, filled batch by batch."""

    number: int
    prompts: Sequence[Prompt]
    rows: list[Row] = field(default_factory=list)
    """What is made, in the order it is."""
    latents: "list[Tensor]" = field(default_factory=list)
    """Batches [B, C, H, W] of the rows, float32 on the CPU."""
    images: "list[Future[list[bytes]]]" = field(default_factory=list)
    """Their image files, some perhaps not made yet."""
    scores: dict[str, list[Scored]] = field(default_factory=dict)
    """By reward, of the first rows, where they were scored already."""

    def add(self, rows: Sequence[Row], latents: "Tensor", images: "Future[list[bytes]]") -> None:
        """Take a batch."""
        self.rows += rows
        self.latents.append(latents)
        self.images.append(images)

    def files(self) -> list[bytes]:
        """The image files of the rows so far, when they are made."""
        return [image for batch in self.images for image in batch.result()]

    def all_latents(self) -> "Tensor":
        """[rows, C, H, W], by prompt, then sample."""
        import torch

        return torch.cat(self.latents)[self._order]

    def table(self) -> "pa.Table":
        """All rows, by prompt, then sample, when their images are made."""
        import pyarrow as pa

        rows, files, order = self.rows, self.files(), self._order
        columns = {
            "prompt_id": pa.array([self.prompts[rows[n].prompt].prompt_id for n in order], pa.string()),
            "sample": pa.array([rows[n].sample for n in order], pa.int32()),
            "seed": pa.array([rows[n].seed for n in order], pa.int64()),
        }
        for name, known in self.scores.items():
            columns |= score_columns(name, [known[n] if n < len(known) else None for n in order])
        return sample_table(columns, [files[n] for n in order])

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self.rows)), key=self.rows.__getitem__)


def score_columns(reward: str, scored: "Sequence[Scored | None]") -> "dict[str, pa.Array]":
    """What a table of samples keeps of scores that were needed while it was made; null where unknown."""
    import pyarrow as pa

    score, truncated = _score_names(reward)
    return {
        score: pa.array([None if each is None else each.score for each in scored], pa.float64()),
        truncated: pa.array([None if each is None else each.truncated for each in scored], pa.bool_()),
    }


def kept_scores(rows: "pa.Table", reward: str) -> list[Scored | None]:
    """What `score_columns` kept, row by row; None where the score is not known."""
    names = _score_names(reward)
    if not set(names) <= set(rows.column_names):
        return [None] * len(rows)
    pairs = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return [None if score is None else Scored(score, truncated=cut) for score, cut in pairs]


def kept_columns(rewards: Iterable[str]) -> list[str]:
    """The names of the columns that `kept_scores` reads."""
    return [name for reward in rewards for name in _score_names(reward)]


def _score_names(reward: str) -> tuple[str, str]:
    return f"score/{reward}", f"truncated/{reward}"


def sample_table(columns: "Mapping[str, pa.Array]", images: Sequence[bytes]) -> "pa.Table":
    """A row a sample: `columns`, and its image file as what `datasets` and the Hub know for an image.

    Raises `ValueError` for images that are too large together to be read back.
    """
    import pyarrow as pa

    if (total := sum(map(len, images))) >= READABLE_BYTES:
        raise ValueError(
            f"{len(images)} images of {size(total)} together cannot be read back from one file; lower "
            "generate.shard_prompts"
        )

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
