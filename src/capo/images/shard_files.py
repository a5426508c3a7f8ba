"""The files of a shard of samples in an artifact.

FOLDER/shard-00000.parquet                    one row per sample, ordered by prompt, then sample
FOLDER/shard-00000.latents.safetensors        one row per sample
FOLDER/shard-00000.conditioning.safetensors   one row per prompt
FOLDER/unconditional.safetensors              one row

The Parquet file is written last: it marks the shard as complete.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from capo.store import Artifact, WorkspaceError

if TYPE_CHECKING:
    import pyarrow as pa

UNCONDITIONAL = "unconditional.safetensors"


def read_samples(
    artifact: Artifact, folder: str = "", columns: list[str] | None = None
) -> Iterator["pa.Table"]:
    """Yield the tables of the shards in `folder`, in order; raises the errors of `shard_paths`."""
    for path in shard_paths(artifact, folder):
        yield artifact.read_table(path, columns)


def shard_paths(artifact: Artifact, folder: str = "") -> list[str]:
    """The paths of the shards in `folder`, in order; raises `WorkspaceError` if it has none."""
    paths = list(itertools.takewhile(artifact.has, (shard_path(folder, n) for n in itertools.count())))
    if not paths:
        raise WorkspaceError(f"{artifact.folder / folder}: no images; run the stage that makes them")
    return paths


def shard_path(folder: str, shard: int) -> str:
    return path_in(folder, f"shard-{shard:05d}.parquet")


def latents_path(folder: str, shard: int) -> str:
    return path_in(folder, f"shard-{shard:05d}.latents.safetensors")


def conditioning_path(folder: str, shard: int) -> str:
    return path_in(folder, f"shard-{shard:05d}.conditioning.safetensors")


def path_in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
