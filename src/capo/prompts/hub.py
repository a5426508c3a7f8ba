"""Find the files of a data set on the Hub, to be read in place: only the parts of them that are needed.

A set is written `hub:owner/name`, for the Parquet files of a split, or with some of its files:
`hub:owner/name/data/part-*.parquet`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.pretrained.hub_access import SECONDS

PREFIX = "hub:"

SET = r"hub:([\w-][\w.-]*/[\w-][\w.-]*)"

READ_AHEAD = 1 << 20
"""Bytes fetched beyond a request. A column is contiguous, and what follows it may be images."""


class HubError(ValueError):
    """A data set that cannot be read as requested; the message names it and the fix."""


def find_files(source: str, split: str | None, revision: str | None) -> tuple[Any, list[str]]:
    """Return the Hub's fsspec file system and the sorted paths in it that `source` names.

    `split` defaults to `train` and does not apply where `source` names files. Raises `HubError` if the set
    does not exist, cannot be reached, or has no such files.
    """
    from huggingface_hub import HfFileSystem

    parsed = re.fullmatch(rf"{SET}(?:/(.+))?", source)
    if parsed is None:
        raise HubError(f"{source!r}: a data set on the Hub is written hub:owner/name or hub:owner/name/FILES")
    name, pattern = parsed.groups()
    root = f"datasets/{name}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
    files = HfFileSystem(block_size=READ_AHEAD)
    try:
        if pattern is None:
            paths = sorted(files.glob(f"{root}/**/*.parquet"))
            return files, _files_of_split(paths, split or "train", source)
        if split is not None:
            raise HubError(f"{source} names its files; a split does not apply")
        paths = sorted(files.glob(f"{root}/{pattern}"))
    except HubError:
        raise
    except Exception as error:
        # The library, its HTTP client and the network each have error types of their own.
        raise HubError(f"{source} cannot be read: {type(error).__name__}: {error}") from error
    if not paths:
        raise HubError(f"{source}: the data set has no such file")
    return files, paths


def fetch_files(source: str, names: Sequence[str], revision: str | None) -> Path:
    """Fetch the files `names` at the top of a set, small ones, into the Hub's cache; return their folder.

    What is there at a commit is not fetched again. Raises `HubError` if one cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    if re.fullmatch(SET, source) is None:
        raise HubError(f"{source!r}: a data set on the Hub is written hub:owner/name")
    name = source.removeprefix(PREFIX)
    try:
        files = [hf_hub_download(name, file, repo_type="dataset", revision=revision) for file in names]
    except Exception as error:
        # The library, its HTTP client and the network each have error types of their own.
        raise HubError(f"{source} cannot be read: {type(error).__name__}: {error}") from error
    return Path(files[0]).parent


def license_of(source: str, revision: str | None) -> str | None:
    """Return the license of the set in `source`, which may begin with a benchmark's name; None if unknown."""
    from huggingface_hub import HfApi

    found = re.search(SET, source)
    if found is None:
        return None
    try:
        info = HfApi().dataset_info(found[1], revision=revision, timeout=SECONDS)
    except Exception:  # the prompts were read; that the license is unknown stops nothing
        return None
    return getattr(info.card_data, "license", None)


def _files_of_split(paths: list[str], split: str, source: str) -> list[str]:
    """Return the paths of a split.

    The Hub names them `train.parquet`, `train-00000-of-00005….parquet` or `train/….parquet`.
    """
    pattern = re.compile(rf"(?:^|/){re.escape(split)}(?:/[^/]+|-\d+-of-\d+[^/]*)?\.parquet$")
    names = [_path_in_set(path) for path in paths]
    matching = [path for path, name in zip(paths, names, strict=True) if pattern.search(name)]
    if not matching:
        some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        files = f"its Parquet files are {some}" if names else "it has no Parquet files"
        raise HubError(f"{source} has no split {split!r}: {files}; name files as {source}/FILES")
    folders = sorted({_path_in_set(path).rpartition("/")[0] for path in matching})
    if len(folders) > 1:
        raise HubError(
            f"{source}: split {split!r} is in {', '.join(folders)}; "
            f"name the files of one, as {source}/{folders[0]}/{split}*"
        )
    return matching


def _path_in_set(path: str) -> str:
    """Drop `datasets/owner/name@revision` from a path."""
    return "/".join(path.split("/")[3:])
