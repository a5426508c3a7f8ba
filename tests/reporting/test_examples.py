"""The selection and the encoding of the images on the page."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capo.recipe import ReportSection
from capo.reporting.examples import (
    FIRST_PIXELS,
    IMAGES,
    LARGEST_SET,
    OTHER_PIXELS,
    PAIR_PIXELS,
    ShownPrompt,
    spread,
)
from capo.reporting.gather import gather
from capo.reporting.pictures import Gallery, embed
from capo.store import WorkspaceError
from synthetic_run import Options, make_run


def prompts(*categories: str | None) -> list[ShownPrompt]:
    return [ShownPrompt(str(i), f"prompt {i}", category) for i, category in enumerate(categories)]


def test_spread_takes_turns_among_categories() -> None:
    selected = spread(prompts("b", "b", "b", "b", "a", "a"), 4)
    assert [p.prompt_id for p in selected] == ["4", "0", "5", "2"]


def test_spread_of_few_or_uncategorized_prompts() -> None:
    assert [p.prompt_id for p in spread(prompts(None, None, None, None), 2)] == ["0", "2"]
    assert len(spread(prompts("a", "b", "a"), 10)) == 3
    assert spread([], 3) == []


def test_sets_are_sorted_best_first_and_truncated(tmp_path: Path) -> None:
    recipe, run = make_run(tmp_path / "run", Options(prompts=4, samples=40, evaluation_prompts=4, steps=5))
    for example in gather(recipe, run).examples:
        for samples, more in (
            (example.chosen, example.chosen_more),
            (example.rejected, example.rejected_more),
        ):
            assert len(samples) <= 8
            assert more == 0 or len(samples) == 8
            assert [c.combined for c in samples] == sorted((c.combined for c in samples), reverse=True)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    _, run = make_run(tmp_path / "run", Options(prompts=2, samples=4, evaluation_prompts=2, steps=5))
    order = run.artifact("prompts").read_table("prompts.parquet")["prompt_id"].to_pylist()
    gallery = Gallery(run.artifact("samples"), "", order, 16)
    with pytest.raises(WorkspaceError, match=rf"shard-00000.parquet: .* sample 9 of prompt {order[0]}"):
        gallery.pictures({order[0]: [9]}, 100)


@pytest.mark.parametrize(
    ("side", "embedded_side", "kind"), [(32, 32, "png"), (128, 128, "png"), (700, 160, "jpeg")]
)
def test_embedded(side: int, embedded_side: int, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (side, side // 2), "teal").save(buffer, "PNG")
    picture = embed(buffer.getvalue(), 160)
    assert (picture.width, picture.height) == (embedded_side, embedded_side // 2)
    assert picture.tiny == (kind == "png")
    assert picture.uri.startswith(f"data:image/{kind};base64,")


def test_a_page_of_photographs_stays_below_five_megabytes() -> None:
    """All sets are full, and the pictures are as grainy as a sharp photograph."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (512, 512), Image.Resampling.BICUBIC
    )
    grainy = np.clip(np.asarray(soft) + rng.normal(scale=12, size=(512, 512, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grainy).save(buffer, "PNG")
    sizes = {
        side: len(embed(buffer.getvalue(), side).uri) for side in (FIRST_PIXELS, OTHER_PIXELS, PAIR_PIXELS)
    }
    usual = ReportSection()
    pictures = 2 * usual.side_by_side * (sizes[FIRST_PIXELS] + (IMAGES - 1) * sizes[OTHER_PIXELS])
    pictures += 2 * LARGEST_SET * usual.pair_examples * sizes[PAIR_PIXELS]
    assert pictures < 5_000_000
