"""Adaptive samples of the tiny model, compared with a run that makes all samples of every prompt."""

import io

import numpy as np
import pytest
from PIL import Image

import tiny_training
from capo import pipeline
from capo.diffusion.family import Family
from capo.images.shard_files import read_samples
from capo.pipeline.graph import steps_of
from capo.recipe import RecipeError, load_recipe
from capo.reporting import facts
from capo.rewards import RewardError
from capo.store import Run
from capo.training.sample_files import Samples

MOST, MARGIN = 6, 0.097
STAGES = ("prompts", "generate", "score", "pair")


def recipe(folder, sdxl, adaptive=True, **sections):
    generate = {"samples_per_prompt": MOST, "num_inference_steps": 2}
    if adaptive:
        generate["adaptive"] = {"first": 2, "step": 2, "margin": MARGIN}
    return tiny_training.recipe(folder, sdxl, **{"generate": generate} | sections)


def make(settings, directory):
    for stage in STAGES:
        pipeline.run(settings, directory, stage=stage)
    return Run(directory)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sdxl):
    """The adaptive run and the one with all samples."""
    folder = tmp_path_factory.mktemp("adaptive")
    return {
        name: make(recipe(folder, sdxl, name == "adaptive"), folder / name) for name in ("adaptive", "whole")
    }


def samples_of(run):
    rows = [row for table in read_samples(run.artifact("samples")) for row in table.to_pylist()]
    return {(row["prompt_id"], row["sample"]): row for row in rows}


def pixels(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)


def colors(row):
    image = pixels(row)
    return image[..., 0].mean() / 8, image[..., 2].mean() / 8


def mean_difference(samples):
    """Return the mean over all frontier pairs of scores [n, 2], by plain loops from the equations."""
    n = len(samples)
    wins = [
        sum(
            np.mean([1 / (1 + np.exp(b[k] - a[k])) for k in range(2)])
            for m, b in enumerate(samples)
            if m != i
        )
        / (n - 1)
        for i, a in enumerate(samples)
    ]

    def dominates(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and a != b

    lower = [i for i in range(n) if not any(dominates(samples[i], other) for other in samples)]
    upper = [i for i in range(n) if not any(dominates(other, samples[i]) for other in samples)]
    chosen = [i for i in upper if i not in lower]
    return np.mean([wins[a] - wins[b] for a in chosen for b in lower]) if chosen else -1.0


def test_a_prompt_gets_samples_until_its_pairs_are_clear(runs):
    whole, found = samples_of(runs["whole"]), samples_of(runs["adaptive"])
    counts = {}
    for prompt_id in dict.fromkeys(key[0] for key in whole):
        scores = [colors(whole[prompt_id, n]) for n in range(MOST)]
        clear = [n for n in range(2, MOST, 2) if mean_difference(scores[:n]) >= MARGIN]
        counts[prompt_id] = clear[0] if clear else MOST
    assert len(set(counts.values())) == 3  # the test needs prompts of all kinds
    assert list(found) == [(prompt_id, n) for prompt_id in counts for n in range(counts[prompt_id])]
    summary = runs["adaptive"].artifact("samples").summary
    assert (summary["samples"], summary["samples_at_most"]) == (sum(counts.values()), 36)
    made = list(counts.values())
    assert summary["prompts_by_samples"] == {str(n): made.count(n) for n in sorted(set(made))}


def test_adaptive_images_are_a_subset_of_the_fixed_runs(runs):
    whole, found = samples_of(runs["whole"]), samples_of(runs["adaptive"])
    latents = {name: Samples(run.artifact("samples")) for name, run in runs.items()}
    for key, row in found.items():
        assert row["seed"] == whole[key]["seed"]
        assert np.abs(pixels(row) - pixels(whole[key])).max() <= 1
        one, other = (latents[name].latent(*key).numpy() for name in runs)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_nothing_is_scored_twice(runs, tmp_path, sdxl, monkeypatch):
    settings = recipe(tmp_path, sdxl)
    asked = []
    redness = tiny_training.redness

    def counted(images, prompts):
        asked.extend(image.tobytes() for image in images)
        return redness(images, prompts)

    monkeypatch.setattr(tiny_training, "redness", counted)
    run = make(settings, tmp_path / "run")
    assert len(asked) == len(set(asked)) == run.artifact("samples").summary["samples"]
    for row in run.artifact("scores/red").read_table("shard-00000.parquet").to_pylist():
        assert row["score"] == colors(samples_of(run)[row["prompt_id"], row["sample"]])[0]


def test_pairs_and_training_accept_unequal_numbers_of_samples(runs, tmp_path, sdxl):
    rows = runs["adaptive"].artifact("pairs").read_table("pairs.parquet").to_pylist()
    found = samples_of(runs["adaptive"])
    for row in rows:
        scores = [colors(found[row["prompt_id"], n]) for n in range(len(row["combined"]))]
        assert (row["prompt_id"], len(scores)) not in found
        pairs = [(a, b) for a in row["chosen"] for b in row["rejected"]]
        difference = np.mean([row["combined"][a] - row["combined"][b] for a, b in pairs]) if pairs else -1.0
        assert difference == pytest.approx(mean_difference(scores))
    copy = tiny_training.copied(runs["adaptive"].path, tmp_path / "copy")
    summary = tiny_training.trained(copy, recipe(tmp_path, sdxl, train={"steps": 2}))
    assert summary["steps"] == 2


def test_an_interrupted_adaptive_run_ends_with_the_same_bytes(runs, tmp_path, sdxl, monkeypatch):
    settings, sample, calls = recipe(tmp_path, sdxl), Family.sample, []

    def failing(*arguments):
        calls.append(len(arguments[3]))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return sample(*arguments)

    pipeline.run(settings, tmp_path / "run", stage="prompts")
    monkeypatch.setattr(Family, "sample", failing)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(settings, tmp_path / "run", stage="generate")
    monkeypatch.undo()
    run = make(settings, tmp_path / "run")
    again, whole = (
        tiny_training.contents(each.artifact("samples").folder) for each in (run, runs["adaptive"])
    )
    assert again == whole


def test_samples_without_a_score_do_not_make_pairs_clear(tmp_path, sdxl, monkeypatch):
    monkeypatch.setattr(tiny_training, "redness", lambda images, prompts: [float("nan")] * len(images))
    settings = recipe(tmp_path, sdxl)
    for stage in STAGES[:2]:
        pipeline.run(settings, tmp_path / "run", stage=stage)
    assert Run(tmp_path / "run").artifact("samples").summary["prompts_by_samples"] == {"6": 6}
    with pytest.raises(RewardError, match=r"'red' gave no score for"):
        pipeline.run(settings, tmp_path / "run", stage="score")


def test_the_report_says_how_many_images_were_made(runs, tmp_path, sdxl):
    summary = {"samples": 20, "samples_at_most": 36, "prompts_by_samples": {"2": 5, "6": 1}}
    text = facts.samples(recipe(tmp_path, sdxl).generate, summary)
    for numbers in ("2 to 6", "0.097", "20 of", "36 images", "5 prompts with 2", "1 prompt with 6"):
        assert numbers in text


def test_inputs_of_adaptive_samples():
    fixed = {step.artifact: step for step in steps_of(load_recipe("shapes"))}
    settled = {step.artifact: step for step in steps_of(load_recipe("shapes", ["generate.adaptive.first=2"]))}
    assert fixed["samples"].inputs["generate.adaptive"] is None
    assert not [name for name in fixed["samples"].inputs if name.startswith(("rewards", "pairs"))]
    new = settled["samples"].inputs.keys() - fixed["samples"].inputs.keys()
    assert {"generate.adaptive.margin", "pairs.selection", "rewards", "rewards.alignment.weights"} <= new
    assert {"rewards.alignment.exponent", "rewards.alignment.weight"} <= new
    assert not [name for name in new if name.startswith(("rewards.heldout", "pairs.min_margin"))]
    for name in ("baseline", "evaluate"):
        assert settled[name].inputs == fixed[name].inputs


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["generate.samples_per_prompt=3"], "adaptive.first: 4 .*samples_per_prompt.* 3"),
        (["pairs.selection=labels"], "adaptive: .*selection is labels"),
        (["prompts={source: images}", "images={source: folder}"], "adaptive: .*existing images"),
        (["start={run: before}"], "adaptive: .*further round"),
        (["generate.adaptive.margin=0"], "greater than 0"),
    ],
)
def test_contradictory_settings_are_rejected(overrides, problem):
    with pytest.raises(RecipeError, match=problem):
        load_recipe("shapes", ["generate.adaptive={}", *overrides])
