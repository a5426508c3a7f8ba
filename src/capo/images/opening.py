"""Which data set `images.source` means, and what tells it from any other."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.images.digests import file_digests
from capo.images.entries import ExchangeError, ImageSource
from capo.images.folders import ImageFolder
from capo.prompts import hub
from capo.recipe import ImagesSection
from capo.store.step import flatten

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def open_images(section: ImagesSection) -> ImageSource:
    """The data set that `section` names, its captions and labels read, its images not yet.

    Raises `ExchangeError` naming the file and the row that cannot be used.
    """
    from pyarrow.fs import LocalFileSystem

    from capo.images.parquet_sets import ParquetImages

    if section.source.startswith(hub.PREFIX):
        return ParquetImages(*_on_hub(section), section.column)
    path = _local(section)
    files = [str(file) for file in _parquet_files(path)]
    return (
        ParquetImages(LocalFileSystem(), files, section.column)
        if files
        else ImageFolder(path, section.column)
    )


def images_inputs(section: ImagesSection | None) -> dict[str, Any]:
    """The part of a fingerprint that says which images an artifact is made from, if any."""
    if section is None:
        return {"images": None}
    return flatten("images", section.results()) | {"images.content": images_identity(section)}


def images_identity(section: ImagesSection) -> str:
    """What tells the data set from any other: `hub:owner/name@revision`, or a digest.

    The digest of local files takes in their names and all of their contents.
    """
    if section.source.startswith(hub.PREFIX):
        return f"{section.source}@{section.revision or 'main'}"
    root = _local(section)
    files = _visible(root) if root.is_dir() else [root]
    digest = hashlib.blake2b(digest_size=16)
    for path, content in zip(files, file_digests(files), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\0".encode())
    return f"blake2b:{digest.hexdigest()}"


def _local(section: ImagesSection) -> Path:
    path = Path(section.source)
    if not path.exists():
        raise ExchangeError(
            f"images.source: {path} is not there; it is a folder, a Parquet file, or hub:owner/name"
        )
    return path


def _parquet_files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in _visible(path) if file.suffix == ".parquet"]
    if path.suffix != ".parquet":
        raise ExchangeError(f"images.source: {path} is neither a folder nor a Parquet file")
    return [path]


def _visible(folder: Path) -> list[Path]:
    """All files in it, in order, but for hidden ones and those in hidden folders."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not any(n.startswith(".") for n in path.relative_to(folder).parts)]


def _on_hub(section: ImagesSection) -> "tuple[FileSystem, list[str]]":
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        system, paths = hub.find_files(section.source, section.split, section.revision)
    except hub.HubError as error:
        raise ExchangeError(f"images.source: {error}") from error
    return PyFileSystem(FSSpecHandler(system)), paths
