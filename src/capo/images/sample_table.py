"""The tables of samples, with one row per sample, and the tensors stored with them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capo.images.disk_space import READABLE_BYTES, format_bytes
from capo.rewards import Scored

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import Tensor


def sample_table(columns: "Mapping[str, pa.Array]", images: Sequence[bytes]) -> "pa.Table":
    """Return `columns` and the image files, as the image feature that `datasets` and the Hub know.

    Raises `ValueError` if the images together are too large to be read back.
    """
    import pyarrow as pa

    if (total := sum(map(len, images))) >= READABLE_BYTES:
        raise ValueError(
            f"{len(images)} images of {format_bytes(total)} cannot be read back from one file; lower "
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


def score_columns(reward: str, scored: "Sequence[Scored | None]") -> "dict[str, pa.Array]":
    """Return the columns that keep scores which sampling needed; null where a row has no score."""
    import pyarrow as pa

    score, truncated = _score_names(reward)
    return {
        score: pa.array([None if s is None else s.score for s in scored], pa.float64()),
        truncated: pa.array([None if s is None else s.truncated for s in scored], pa.bool_()),
    }


def kept_scores(rows: "pa.Table", reward: str) -> list[Scored | None]:
    """Return the scores that `score_columns` kept, row by row; None where a row has no score."""
    names = _score_names(reward)
    if not set(names) <= set(rows.column_names):
        return [None] * len(rows)
    pairs = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return [None if score is None else Scored(score, truncated=cut) for score, cut in pairs]


def kept_columns(rewards: Iterable[str]) -> list[str]:
    """Return the names of the columns that `kept_scores` reads."""
    return [name for reward in rewards for name in _score_names(reward)]


def _score_names(reward: str) -> tuple[str, str]:
    return f"score/{reward}", f"truncated/{reward}"


def latent_tensors(latents: "Sequence[Tensor]", dtype: "torch.dtype") -> "dict[str, Tensor]":
    """Return the content of a shard's latents file: [samples, C, H, W].

    In `dtype` if that loses nothing: a sampler in bfloat16 returns float32 numbers that bfloat16 can
    represent, in half the space.
    """
    import torch

    whole = torch.cat(list(latents))
    narrow = whole.to(dtype)
    return {"latents": narrow if torch.equal(narrow.to(whole.dtype), whole) else whole}
