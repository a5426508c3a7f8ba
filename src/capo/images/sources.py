"""Open the data set that `images.source` names, and identify it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.images.entries import ImagesError, ImageSource
from capo.images.folders import ImageFolder
from capo.prompts import hub
from capo.prompts.folder_files import report_skipped, visible_files
from capo.recipe import ImagesSection
from capo.store.file_digests import file_digests
from capo.store.manifest import identify
from capo.store.step import flatten

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def open_images(section: ImagesSection) -> ImageSource:
    """Read the captions and labels of a data set, but not its images.

    Raises `ImagesError`, which names the file and row.
    """
    from pyarrow.fs import LocalFileSystem

    from capo.images.parquet_images import ParquetImages

    if section.source.startswith(hub.PREFIX):
        return ParquetImages(*_hub_files(section), section.column)
    path = _local(section)
    if path.is_file():
        return ParquetImages(LocalFileSystem(), [str(path)], section.column)
    files, skipped = visible_files(path)
    report_skipped(path, skipped)
    if parquet := [str(file) for file in files if file.suffix == ".parquet"]:
        return ParquetImages(LocalFileSystem(), parquet, section.column)
    return ImageFolder(path, files, section.column)


def check_images(section: ImagesSection) -> None:
    """Raise `ImagesError` unless the data set exists; reads none of it."""
    if section.source.startswith(hub.PREFIX):
        _hub_files(section)
    else:
        _local(section)


def images_inputs(section: ImagesSection | None) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the images an artifact is made from, if any."""
    if section is None:
        return {"images": None}
    content = identify("images.source", lambda: images_identity(section))
    return flatten("images", section.results()) | {"images.content": content}


def images_identity(section: ImagesSection) -> str:
    """Return `hub:owner/name@revision`, or a digest of the names and contents of local files."""
    if section.source.startswith(hub.PREFIX):
        return f"{section.source}@{section.revision or 'main'}"
    root = _local(section)
    files = [root] if root.is_file() else visible_files(root)[0]
    digest = hashlib.blake2b(digest_size=16)
    for path, content in zip(files, file_digests(files), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\0".encode())
    return f"blake2b:{digest.hexdigest()}"


def _local(section: ImagesSection) -> Path:
    path = Path(section.source)
    if not path.exists():
        raise ImagesError(
            f"images.source: {path} does not exist; name a folder, a Parquet file, or hub:owner/name"
        )
    if not path.is_dir() and not (path.is_file() and path.suffix == ".parquet"):
        raise ImagesError(f"images.source: {path} is neither a folder nor a Parquet file")
    return path


def _hub_files(section: ImagesSection) -> "tuple[FileSystem, list[str]]":
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        system, paths = hub.find_files(section.source, section.split, section.revision)
    except hub.HubError as error:
        raise ImagesError(f"images.source: {error}") from error
    return PyFileSystem(FSSpecHandler(system)), paths
