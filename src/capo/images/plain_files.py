"""Image files and tables for other programs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from capo.images.folders import METADATA


def json_line(row: Mapping[str, Any]) -> str:
    """Return a line of a JSON Lines file."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def file_suffix(data: bytes) -> str:
    """Return the ending of the name of an image file: png, webp or jpg."""
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"


def write_image_folder(folder: Path, images: Iterable[tuple[str, bytes, Mapping[str, Any]]]) -> int:
    """Create a folder of images with a table of them; return their number.

    `images` are paths without the ending, image files, and the columns of the table other than `file_name`.
    """
    count = 0
    folder.mkdir()
    with (folder / METADATA[0]).open("w", encoding="utf-8") as lines:
        for path, data, row in images:
            name = f"{path}.{file_suffix(data)}"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            lines.write(json_line({"file_name": name, **row}))
            count += 1
    return count
