"""The images behind the verdicts that a benchmark's page shows: changed verdicts first."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from capo.benchmarks.artifacts import BASE, TUNED, Side, artifact_name
from capo.benchmarks.definition import FAILED, Row
from capo.prompts import Prompt
from capo.recipe import BenchmarkSection
from capo.reporting.benchmark_page import GalleryItem, Kind, ShownGallery, judged_image
from capo.reporting.pictures import Gallery
from capo.store import Run

MOST: dict[Kind, int] = {"gained": 80, "lost": 80, "wrong": 40, "right": 40, "unknown": 20}
"""Most images of every kind on the page, in its order, so that it stays small enough to open."""

PIXELS = 224
"""Longest side of an image."""

Key = tuple[int, int]
"""Number of the prompt, and of the image."""


def gallery_items(
    run: Run,
    section: BenchmarkSection,
    prompts: Sequence[Prompt],
    rows: Mapping[Side, Sequence[Row]],
    shard_prompts: int,
) -> ShownGallery:
    """Return the images to show, spread evenly over the prompts within every kind."""
    judged = {
        side: {(row["prompt"], row["image"]): row for row in of_model} for side, of_model in rows.items()
    }
    kinds = {key: _kind(judged, key) for key in sorted(judged[TUNED])}
    shown = [key for kind in MOST for key in _spread([k for k in kinds if kinds[k] == kind], MOST[kind])]
    ids = [prompt.prompt_id for prompt in prompts]
    wanted: dict[str, list[int]] = {}
    for number, image in shown:
        wanted.setdefault(ids[number], []).append(image)
    pictures = {
        side: Gallery(
            run.artifact(artifact_name(section.name, "images", side)), "", ids, shard_prompts
        ).pictures(wanted, PIXELS)
        for side in rows
    }
    items = tuple(
        GalleryItem(
            number=number,
            image=image,
            prompt=prompts[number].text,
            category=prompts[number].category,
            kind=kinds[number, image],
            images={
                side: judged_image(pictures[side][ids[number], image], judged[side][number, image])
                for side in rows
            },
        )
        for number, image in shown
    )
    by_score = not any("correct" in row for row in rows[TUNED])
    return ShownGallery(items, Counter(kinds.values()), by_score)


def _kind(judged: Mapping[Side, Mapping[Key, Row]], key: Key) -> Kind:
    """Return how the verdicts of both models on an image relate, or the verdict on the only one."""
    values = [_verdict(rows[key]) for side in (BASE, TUNED) if (rows := judged.get(side)) is not None]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "unknown"
    if known[-1] != known[0]:
        return "gained" if known[-1] > known[0] else "lost"
    is_wrong = "correct" in judged[TUNED][key] and not known[-1]
    return "wrong" if is_wrong else "right"


def _verdict(row: Row) -> float | None:
    if FAILED in row:
        return None
    value = row.get("correct", row.get("score"))
    return None if value is None else float(value)


def _spread(keys: Sequence[Key], most: int) -> Iterator[Key]:
    """Yield at most so many of the keys, at equal distances."""
    count = min(len(keys), most)
    for n in range(count):
        yield keys[n * len(keys) // count]
