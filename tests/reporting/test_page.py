"""The content of the report."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from capo.recipe import load_recipe
from capo.reporting.gather import Material, gather
from capo.reporting.report import write_report
from capo.reporting.report_page import render
from capo.store import Run, WorkspaceError
from capo.store.step import Job
from parsed_page import ParsedPage
from synthetic_run import Options, make_recipe, make_run

WINS_AND_LOSSES = "../evaluate/index.html#extremes"
SECTIONS = ["results", "judge", "images", "pairs", "rewards", "training", "use", "settings"]


def small(**changes: object) -> Options:
    """Options of a small run."""
    usual = Options(prompts=6, samples=6, evaluation_prompts=8, evaluation_samples=2, steps=20)
    return replace(usual, **changes)  # type: ignore[arg-type]


def page_of(path: Path, options: Options) -> ParsedPage:
    recipe, run = make_run(path, options)
    return ParsedPage(render(gather(recipe, run)))


def headings(page: ParsedPage) -> list[str]:
    return [e.attributes["id"] for e in page.all("h2") if e.attributes["id"] != "warnings"]


def test_sections_in_order(page: str) -> None:
    parsed = ParsedPage(page)
    assert headings(parsed) == SECTIONS
    links = [e.attributes["href"] for e in parsed.all("a")]
    assert links[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]
    targets = {e.attributes.get("id") for e in parsed.elements}
    assert {link.removeprefix("#") for link in links} - targets == {WINS_AND_LOSSES}


def test_headline_numbers(page: str, material: Material) -> None:
    text = ParsedPage(page).text
    results = material.results
    assert f"wins {100 * results.training_win_rate.value:.1f}% of comparisons" in text
    for reward in results.rewards:
        assert f"{100 * reward.win_rate:.1f}%" in text
        assert f"{100 * reward.low:.1f} to {100 * reward.high:.1f}%" in text
    assert results.joint is not None
    assert f"{100 * results.joint.domination.rate:.1f}%" in text
    assert results.judge is not None
    for category in results.judge.categories.values():
        assert f"{100 * category.tuned:.1f}%" in text


def test_number_of_images_follows_the_recipe(page: str, material: Material) -> None:
    alternatives = [e.attributes["alt"] for e in ParsedPage(page).all("img")]
    count = material.recipe.report.side_by_side
    assert sum(a.startswith("base model, image 1: ") for a in alternatives) == count
    assert sum(a.startswith("tuned model, image ") for a in alternatives) == 4 * count
    assert len(material.examples) == material.recipe.report.pair_examples
    assert sum(a.startswith("chosen sample") for a in alternatives) == sum(
        len(e.chosen) for e in material.examples
    )


def test_accessible_tables_and_figures(page: str) -> None:
    parsed = ParsedPage(page)
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(e.attributes.get("scope") in ("row", "col") for e in parsed.all("th"))
    assert all(e.attributes["alt"] for e in parsed.all("img"))
    for svg in parsed.all("svg"):
        described = svg.attributes.get("role") == "img" and svg.attributes.get("aria-label")
        assert described or svg.attributes.get("aria-hidden") == "true"
    ids = [e.attributes["id"] for e in parsed.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def test_sections_without_data_are_absent(tmp_path: Path) -> None:
    bare = small(
        training_rewards=("preference",),
        held_out=(),
        judge=False,
        null_row=False,
        validation=False,
        selection="sum",
        report={"side_by_side": 0, "pair_examples": 0},
    )
    parsed = page_of(tmp_path / "run", bare)
    assert headings(parsed) == ["results", "rewards", "training", "use", "settings"]
    recipe_heading = "The complete recipe"
    visible = parsed.text[: parsed.text.index(recipe_heading)]
    for word in ("judge", "chance", "held out", "Validation", "frontiers"):
        assert word not in visible
    assert not parsed.all("img")


def test_labels_are_named_as_the_source_of_the_pairs(material: Material) -> None:
    pairs = replace(material.pairs, rewards=("labels",), calibrated=material.pairs.calibrated[:, :1])
    comparisons = {"labels": material.comparisons["preference"]}
    section = material.recipe.pairs.model_copy(update={"selection": "labels"})
    recipe = material.recipe.model_copy(update={"pairs": section})
    labeled = replace(material, pairs=pairs, comparisons=comparisons, recipe=recipe)
    text = ParsedPage(render(labeled)).text
    assert "Labels made the pairs" in text
    assert "combined calibrated reward" not in text
    assert "preference held out" not in text
    assert "heldout held out" in text


def test_judge_is_plotted_over_training_steps(material: Material) -> None:
    drawn = [svg.attributes.get("aria-label", "") for svg in ParsedPage(render(material)).all("svg")]
    (label,) = [label for label in drawn if label.startswith("Correct images")]
    assert "policy ends at" in label
    assert "base ends at 0.6" in label


def test_warnings_come_before_the_results(tmp_path: Path) -> None:
    parsed = page_of(tmp_path / "run", small(warnings=("The held-out reward fell.",), missing=3, unread=2))
    assert parsed.text.index("The held-out reward fell.") < parsed.text.index("Win-rate by reward")
    assert "no score for 3 of 36 images" in parsed.text
    assert "2 prompts are longer than preference" in parsed.text
    assert "Samples without a score3" in parsed.text


def test_an_underweighted_reward_is_named(material: Material) -> None:
    flat = material.pairs.calibrated.copy()
    flat[:, 1] = 0.5 + 0.05 * (flat[:, 1] - 0.5)
    underweighted = replace(material, pairs=replace(material.pairs, calibrated=flat))
    assert "vqa is underweighted" in ParsedPage(render(underweighted)).text
    assert "is underweighted" not in ParsedPage(render(material)).text
    # Nothing makes it count where another reward alone selects the pairs.
    by_one = material.recipe.pairs.model_copy(update={"selection": "best-worst", "reward": "preference"})
    alone = replace(underweighted, recipe=material.recipe.model_copy(update={"pairs": by_one}))
    text = ParsedPage(render(alone)).text
    assert "is underweighted" not in text
    assert text.count("preference alone") == 2


def test_only_wall_clock_values_differ_between_runs(tmp_path: Path) -> None:
    pages = []
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        recipe, run = make_run(tmp_path / name, small())
        with Run.open(run.path) as opened:
            opened.record_timing("train", seconds=seconds, device=name, finished=f"2026-11-0{seconds:.0f}")
        pages.append(render(gather(recipe, run)))
    assert pages[0] != pages[1]
    first, second = map(ParsedPage, pages)
    assert first.elements == second.elements
    assert first.words == second.words


def test_stays_small_with_many_prompts(tmp_path: Path) -> None:
    many = Options(evaluation_prompts=200, evaluation_samples=1, null_row=False, steps=4000)
    recipe, run = make_run(tmp_path / "run", many)
    assert len(render(gather(recipe, run))) < 1_000_000


def test_the_stage_writes_and_commits(tmp_path: Path) -> None:
    recipe, run = make_run(tmp_path / "run", small())
    with Run.open(run.path) as opened:
        artifact = opened.artifact("report")
        artifact.begin({"title": None})
        write_report(Job(recipe, opened, (artifact,)))
    assert artifact.done
    assert (tmp_path / "run/report/index.html").read_bytes().startswith(b"<!DOCTYPE html>")


def test_needs_the_evaluation(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run") as run, pytest.raises(WorkspaceError, match=r"evaluate"):
        gather(make_recipe(small()), run)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            [
                "from capo.diffusion import resolve_checkpoint  # finds the base",
                '    resolve_checkpoint("shapes"),',
                "    dtype=torch.float32,",
                'pipe.load_lora_weights("runs/mine/train/best")',
            ],
        ),
        (
            {"model": {"checkpoint": "some/model", "revision": "abc", "dtype": "bfloat16"}},
            ['    revision="abc",', "    dtype=torch.bfloat16,"],
        ),
        (
            {"train": {"adaptation": "full"}},
            ['pipe = DiffusionPipeline.from_pretrained("runs/mine/train/best", dtype=torch.float32)'],
        ),
    ],
)
def test_loading_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], lines: list[str]
) -> None:
    recipe, run = make_run(tmp_path / "runs/mine", small(**changes))
    monkeypatch.chdir(tmp_path)
    from capo.reporting.loading_code import loading_code, repeat_command

    material = gather(recipe, run)
    code = loading_code(material)
    compile(code, "loading", "exec")
    assert set(lines) <= set(code.splitlines())
    _, _, file, _, target = shlex.split(repeat_command(material))
    assert load_recipe(file) == recipe
    assert not Path(target).exists()
