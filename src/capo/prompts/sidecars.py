"""Captions beside images: `photo.png` with its caption in `photo.txt`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from capo.engine.progress import say
from capo.prompts.folder_files import report_skipped, visible_files
from capo.prompts.rows import PromptRequest, SourceRow, refuse_columns
from capo.prompts.text_rules import PromptsError

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_IMAGES = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".tif", ".tiff")
"""Endings of image files whose captions are read, but not the images themselves."""
SIDECAR = ".txt"
"""The ending of a file with the caption of the image of the same name."""
PROMPT = "prompt.txt"
"""The file with the prompt of all images in its folder, which is beside none of them."""


def sidecars(files: Sequence[Path], endings: tuple[str, ...]) -> dict[Path, Path | None]:
    """Return the images among `files` with their caption files, in order; None for one without."""
    texts = {path for path in files if path.suffix == SIDECAR and path.name != PROMPT}
    images = (path for path in files if path.suffix.lower() in endings)
    return {path: text if (text := path.with_suffix(SIDECAR)) in texts else None for path in images}


def read_caption(path: Path) -> str:
    """Return the text of a file without surrounding white space; raises `PromptsError` unless it is UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").strip()
    except UnicodeDecodeError as error:
        raise PromptsError(f"{path}: not UTF-8 ({error.reason})") from error


def caption_files(folder: Path, field: str) -> list[Path]:
    """Return the caption files beside the images of a folder; raises `PromptsError` if there is none."""
    texts, _ = _captions(folder, visible_files(folder)[0], field)
    return texts


def read_sidecars(folder: Path, request: PromptRequest) -> Iterator[SourceRow]:
    """Yield the captions beside the images of a folder as prompts, in the order of their paths."""
    refuse_columns(str(folder), request)
    files, skipped = visible_files(folder)
    report_skipped(folder, skipped)
    texts, without = _captions(folder, files, request.field)
    for text in texts:
        yield SourceRow(read_caption(text), place=str(text))
    if without:
        say(f"{folder}: {without} images have no caption in a file beside them")


def _captions(folder: Path, files: Sequence[Path], field: str) -> tuple[list[Path], int]:
    """Return the caption files, each once, and the number of images without one."""
    found = list(sidecars(files, IMAGES + OTHER_IMAGES).values())
    texts = list(dict.fromkeys(text for text in found if text is not None))
    if not texts:
        raise PromptsError(
            f"{folder}: no captions beside images, such as photo{SIDECAR} beside photo.png; {field}.source "
            "is such a folder or a file, for example the metadata.jsonl of a folder"
        )
    return texts, found.count(None)
