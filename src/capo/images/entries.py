"""A data set of images: prompts, where their images are, and human labels."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from capo.prompts import Prompt, make_prompt
from capo.prompts.text_rules import say_column

CAPTIONS = ("caption", "prompt", "text")
"""Names that the caption column may have, most likely first."""

Place = Any
"""The location of an image in a source: a path, or a row and a column."""


class ImagesError(ValueError):
    """A data set of images that cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Entry:
    """A prompt and its images."""

    prompt: Prompt
    images: tuple[Place, ...]
    labels: tuple[float, float] | None = None
    """How often people prefer each of two images to the other, in [0, 1]; None without a judgment."""


class ImageSource(Protocol):
    """A data set with only captions and labels in memory."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All prompts with their images, in the order of the data set."""

    @property
    def without_caption(self) -> int:
        """The number of rows skipped because they have no usable caption."""

    def read(self, place: Place) -> bytes:
        """Return the image file at a place of an entry; fastest in the order of the entries."""

    def name(self, place: Place) -> str:
        """Return a place in words, for messages and tables."""


def count_entries(source: ImageSource) -> dict[str, int]:
    """Return the numbers of prompts, images and labels in a data set."""
    labels = [entry.labels for entry in source.entries if entry.labels is not None]
    return {
        "prompts": len({entry.prompt.text for entry in source.entries}),
        "images": sum(len(entry.images) for entry in source.entries),
        "most_images_a_prompt": max(len(entry.images) for entry in source.entries),
        "with_label": len(labels),
        "ties": sum(first == second for first, second in labels),
        "without_caption": source.without_caption,
    }


def group_by_caption(images: Iterable[tuple[str, Place]]) -> list[Entry]:
    """Return an entry for every distinct caption, with all of its images."""
    places: dict[str, list[Place]] = {}
    for caption, place in images:
        places.setdefault(caption, []).append(place)
    return [Entry(make_prompt(caption), tuple(group)) for caption, group in places.items()]


def comparison_entry(
    caption: str, row: str, images: tuple[Place, Place], labels: tuple[float, float] | None
) -> Entry:
    """Return an entry of two images that people compared.

    Comparisons with equal captions stay separate entries, since people judged these two images and no others;
    `row`, unique in the data set, is part of the prompt's address.
    """
    address = hashlib.blake2b(f"{caption}\0{row}".encode(), digest_size=8).hexdigest()
    return Entry(Prompt(address, caption), images, labels)


def read_labels(row: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """Return the labels of a row with Pick-a-Pic's columns, or None if it has none.

    `label_0` and `label_1` are 1 and 0 for the preferred image and the other, ½ each for a tie. A
    `delta_reward`, which `capo data export` writes, says by how much the preferred image is better.
    """
    first, second = row.get("label_0"), row.get("label_1")
    if first is None or row.get("has_label") is False:
        return None
    first = _share(first, "label_0", where)
    second = 1 - first if second is None else _share(second, "label_1", where)
    if row.get("delta_reward") is None or first == second:
        return first, second
    delta = _share(row["delta_reward"], "delta_reward", where)
    share = (1 + delta) / 2
    return (share, 1 - share) if first > second else (1 - share, share)


def _share(value: Any, name: str, where: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ImagesError(f"{where}: {name} {value!r} must be a number in [0, 1]")
    return float(value)


def caption_column(names: Sequence[str], wanted: str | None, where: str) -> str:
    """Return the caption column among `names`: `wanted`, else the first of `CAPTIONS`."""
    candidates = CAPTIONS if wanted is None else (wanted,)
    found = [name for name in candidates if name in names]
    if found:
        say_column(where.rpartition(":")[0] or where, found[0], tuple(found[1:]), "images.column")
        return found[0]
    raise ImagesError(
        f"{where}: no column {' or '.join(candidates)} for captions among {', '.join(names)}; name it in "
        "images.column"
    )


def clean_caption(caption: Any, where: str) -> str:
    """Return a caption without surrounding white space; empty for a missing one."""
    if caption is None:
        return ""
    if not isinstance(caption, str):
        raise ImagesError(f"{where}: the caption is {caption!r}, not text")
    return caption.strip()
