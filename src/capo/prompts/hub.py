"""Data sets on the Hub, read where they lie: only the files, and of Parquet only the columns, asked for.

A set is written `hub:owner/name`, which means the Parquet files of a split, or with files of its:
`hub:owner/name/data/part-*.parquet`.
"""

import re
from typing import Any

PREFIX = "hub:"

READ_AHEAD = 1 << 20
"""Bytes fetched after what is asked for: a column lies in one place, and the next may hold images."""


class HubError(ValueError):
    """A data set that cannot be read as asked; the message names it and the fix."""


def find_files(source: str, split: str | None, revision: str | None) -> tuple[Any, list[str]]:
    """The Hub's file system (of fsspec) and the paths in it that `source` means, sorted.

    `split` is `train` when None; it does not apply where `source` names files. Raises `HubError`
    when the set is not there or not reachable, or has no such files.
    """
    from huggingface_hub import HfFileSystem

    parsed = re.fullmatch(r"hub:([\w-][\w.-]*/[\w-][\w.-]*)(?:/(.+))?", source)
    if parsed is None:
        raise HubError(f"{source!r}: a data set of the Hub is written hub:owner/name or hub:owner/name/FILES")
    name, pattern = parsed.groups()
    root = f"datasets/{name}" + (f"@{revision.replace('/', '%2F')}" if revision else "")
    files = HfFileSystem(block_size=READ_AHEAD)
    try:
        if pattern is None:
            found = sorted(files.glob(f"{root}/**/*.parquet"))
            return files, _of_split(found, split or "train", source)
        if split is not None:
            raise HubError(f"{source} names its files; a split does not apply")
        found = sorted(files.glob(f"{root}/{pattern}"))
    except HubError:
        raise
    except Exception as error:
        # The library, its HTTP client and the network each have errors of their own.
        raise HubError(f"{source} cannot be read: {type(error).__name__}: {error}") from error
    if not found:
        raise HubError(f"{source}: the set has no such file")
    return files, found


def _of_split(paths: list[str], split: str, source: str) -> list[str]:
    """Those named in the Hub's ways: `train.parquet`, `train-00000-of-00005….parquet`, `train/….parquet`."""
    named = re.compile(rf"(?:^|/){re.escape(split)}(?:/[^/]+|-\d+-of-\d+[^/]*)?\.parquet$")
    names = [_in_set(path) for path in paths]
    found = [path for path, name in zip(paths, names, strict=True) if named.search(name)]
    if not found:
        some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        there = f"its Parquet files are {some}" if names else "it has no Parquet files"
        raise HubError(f"{source} has no split {split!r}: {there}; name files as {source}/FILES")
    folders = sorted({_in_set(path).rpartition("/")[0] for path in found})
    if len(folders) > 1:
        raise HubError(
            f"{source}: split {split!r} is in {', '.join(folders)}; "
            f"name the files of one, as {source}/{folders[0]}/{split}*"
        )
    return found


def _in_set(path: str) -> str:
    """The path without `datasets/owner/name@revision`."""
    return "/".join(path.split("/")[3:])
