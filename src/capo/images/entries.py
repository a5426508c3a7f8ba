"""What is found in a data set of images: prompts, the places of their images, and labels."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from capo.prompts import Prompt, make_prompt

CAPTIONS = ("caption", "prompt", "text")
"""Names of the column of captions, the likeliest first."""

Place = Any
"""Where a source finds an image: a path, or a row and a column."""


class ExchangeError(ValueError):
    """A data set of images that cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Entry:
    """A prompt and the images that are there of it."""

    prompt: Prompt
    images: tuple[Place, ...]
    labels: tuple[float, float] | None = None
    """How often people prefer each of two images over the other, in [0, 1]; None when nobody said."""


class ImageSource(Protocol):
    """A data set, of which only captions and labels are in memory."""

    @property
    def entries(self) -> Sequence[Entry]:
        """All prompts with their images, in the order of the data set."""

    @property
    def without_caption(self) -> int:
        """How many rows were left out because nothing fit for a prompt says what they show."""

    def read(self, place: Place) -> bytes:
        """The image file at a place of an entry; quickest in the order of the entries."""

    def name(self, place: Place) -> str:
        """A place in words, for messages and tables."""


def summary(source: ImageSource) -> dict[str, int]:
    """How much there is of what in a data set."""
    labels = [entry.labels for entry in source.entries if entry.labels is not None]
    return {
        "prompts": len({entry.prompt.text for entry in source.entries}),
        "images": sum(len(entry.images) for entry in source.entries),
        "most_images_a_prompt": max(len(entry.images) for entry in source.entries),
        "with_label": len(labels),
        "ties": sum(first == second for first, second in labels),
        "without_caption": source.without_caption,
    }


def grouped(images: Iterable[tuple[str, Place]]) -> list[Entry]:
    """An entry for every caption, letter by letter, with all images that have it."""
    places: dict[str, list[Place]] = {}
    for caption, place in images:
        places.setdefault(caption, []).append(place)
    return [Entry(make_prompt(caption), tuple(found)) for caption, found in places.items()]


def compared(
    caption: str, where: str, images: tuple[Place, Place], labels: tuple[float, float] | None
) -> Entry:
    """An entry of two images that were compared, at `where` of a data set.

    Every comparison is an entry of its own, whatever others share its caption: people judged these
    two images and no others.
    """
    address = hashlib.blake2b(f"{caption}\0{where}".encode(), digest_size=8).hexdigest()
    return Entry(Prompt(address, caption), images, labels)


def read_labels(row: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """The labels of a row of Pick-a-Pic's columns; None where the row has none.

    `label_0` and `label_1` are 1 and 0 for the preferred image and the other, ½ each for a tie. A
    `delta_reward`, as `capo data export` writes, says how much better the preferred one is.
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
        raise ExchangeError(f"{where}: {name} {value!r} must be a number in [0, 1]")
    return float(value)


def caption_column(names: Sequence[str], wanted: str | None, where: str) -> str:
    """The column of captions among `names`."""
    candidates = CAPTIONS if wanted is None else (wanted,)
    found = next((name for name in candidates if name in names), None)
    if found is None:
        raise ExchangeError(
            f"{where}: no column {' or '.join(candidates)} for captions among {', '.join(names)}; name "
            "it with images.column"
        )
    return found


def clean(caption: Any, where: str) -> str:
    """A caption without the blanks around it, empty when there is none."""
    if caption is None:
        return ""
    if not isinstance(caption, str):
        raise ExchangeError(f"{where}: the caption is {caption!r}, not text")
    return caption.strip()
