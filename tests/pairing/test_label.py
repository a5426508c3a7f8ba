"""Pairs of a model's own samples, labeled by simulated people."""

import random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import tiny_run
from capo.pairing.calibration_report import calibration_report
from capo.pairing.pair import pair
from capo.pairing.training_pairs import read_pairs
from capo.pipeline.graph import steps_of
from capo.prompts import make_prompt
from capo.prompts.table import prompt_table
from capo.recipe import RecipeError, RewardSection, load_recipe
from capo.rewards import RewardError
from capo.shapes.drawing import draw
from capo.shapes.grammar import draw_specs
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.simulated_raters import alignment, beauty
from capo.store import Run
from capo.store.step import Job

REWARD = {"name": "bt", "source": "function_rewards:contrast"}
PEOPLE = {"selection": "labels", "people": "shapes"}
SAMPLES = 7
SPECS = draw_specs("train", 6, 0)


def scenes_of(spec):
    rng = random.Random(spec.text)
    return [scene_of(spec if rng.random() < 0.5 else corrupt(spec, rng), rng) for _ in range(SAMPLES)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run whose samples are drawn scenes, and the scenes' utilities by prompt id."""
    run = Run(tmp_path_factory.mktemp("runs") / "drawn")
    prompts = [make_prompt(spec.text, spec.category, spec.metadata) for spec in SPECS]
    utilities = {}
    with Run.open(run.path) as opened:
        artifact = opened.artifact("prompts")
        artifact.begin({})
        artifact.write_table("prompts.parquet", prompt_table(prompts))
        artifact.commit()
        samples = opened.artifact("samples")
        samples.begin({})
        for shard in range(2):
            rows = []
            for prompt, spec in list(zip(prompts, SPECS, strict=True))[3 * shard : 3 * shard + 3]:
                scenes = scenes_of(spec)
                utilities[prompt.prompt_id] = [6 * alignment(s, spec) + 0.35 * beauty(s) for s in scenes]
                images = draw(scenes).permute(0, 2, 3, 1).numpy()
                rows += [(prompt.prompt_id, n, tiny_run.png(image)) for n, image in enumerate(images)]
            ids, numbers, data = zip(*rows, strict=True)
            images = [{"bytes": each, "path": None} for each in data]
            table = {"prompt_id": ids, "sample": pa.array(numbers, pa.int32()), "image": images}
            samples.write_table(f"shard-{shard:05d}.parquet", pa.table(table))
        samples.commit({})
    return run, prompts, utilities


def recipe(seed=0, **pairs):
    generate = {"samples_per_prompt": SAMPLES}
    return tiny_run.recipe([REWARD], pairs=PEOPLE | pairs, generate=generate, seed=seed)


def labeled(run, seed=0):
    with Run.open(run.path) as opened:
        artifact = opened.artifact("pairs")
        artifact.begin({"seed": seed}, force=True)
        pair(Job(recipe(seed), opened, (artifact,)))
        return artifact, artifact.read_table("pairs.parquet").to_pylist()


def test_every_sample_is_compared_once_and_only_compared_pairs_are_drawn(drawn):
    artifact, rows = labeled(drawn[0])
    assert [row["prompt_id"] for row in rows] == [prompt.prompt_id for prompt in drawn[1]]
    for row in rows:
        told = row["combined"]
        assert sorted(row["chosen"] + row["rejected"]) == sorted(n for pair in row["compared"] for n in pair)
        assert all((told[a], told[b]) == (1, 0) for a, b in row["compared"])
        # Seven samples form three pairs. A tie has labels of one half; the last sample has no label.
        assert len(row["compared"]) + told.count(0.5) / 2 == 3
        assert told.count(None) == 1
    prompts, counts = read_pairs(artifact, 0.0)
    allowed = {each.prompt_id: sorted(each.allowed.tolist()) for each in prompts}
    assert allowed == {row["prompt_id"]: sorted(row["compared"]) for row in rows if row["compared"]}
    assert counts.used == len(allowed)
    assert artifact.summary["mean_delta_reward"] == 1


def test_labels_are_a_function_of_the_seed(drawn):
    first = labeled(drawn[0])[1]
    assert labeled(drawn[0])[1] == first
    assert labeled(drawn[0], seed=1)[1] != first


def test_labels_follow_a_logistic_choice(drawn):
    run, _, utilities = drawn
    chances, won = [], []
    for seed in range(12):
        for row in labeled(run, seed)[1]:
            for a, b in row["compared"]:
                difference = utilities[row["prompt_id"]][a] - utilities[row["prompt_id"]][b]
                # Conditional on no tie; a noisy difference below 1/4 is a tie.
                above = 1 / (1 + np.exp(0.25 - abs(difference)))
                below = 1 / (1 + np.exp(0.25 + abs(difference)))
                chances.append(above / (above + below))
                won.append(difference > 0)
    error = np.sqrt(np.sum(np.array(chances) * (1 - np.array(chances)))) / len(chances)
    assert len(won) > 150
    assert abs(np.mean(won) - np.mean(chances)) < 4 * error
    assert np.mean(chances) < 0.9, "they err"


def test_the_calibration_report_has_the_agreement_of_rewards_with_labels(drawn):
    run, prompts, _ = drawn
    _, rows = labeled(run)
    scores = np.random.default_rng(0).normal(size=(len(prompts), SAMPLES))
    with Run.open(run.path) as opened:
        tiny_run.put_scores(opened, RewardSection.model_validate(REWARD), prompts, scores)
    agreed = [scores[p, a] > scores[p, b] for p, row in enumerate(rows) for a, b in row["compared"]]
    found = calibration_report(recipe(), run)
    assert found.agreement["bt"] == pytest.approx(np.mean(agreed))
    assert found.rewards[0].name == "labels"


def test_people_without_a_preference_are_an_error_before_anything_is_written(drawn, monkeypatch):
    undecided = SimpleNamespace(can_compare=lambda prompt: True, compare=lambda *_: [(0, 1, 0.5)])
    monkeypatch.setattr("capo.pairing.label.load_people", lambda name: undecided)
    with pytest.raises(RewardError, match="no prompt has a pair"):
        labeled(drawn[0], seed=99)
    assert not (drawn[0].path / "pairs.parquet").exists()


def test_labeled_pairs_depend_on_samples_and_seed_but_no_reward():
    people = load_recipe("shapes", ["seed=3", "pairs.selection=labels", "pairs.people=shapes"])
    step = next(step for step in steps_of(people) if step.artifact == "pairs")
    assert (step.upstream, step.inputs["seed"]) == (("samples",), 3)
    step = next(step for step in steps_of(load_recipe("shapes")) if step.artifact == "pairs")
    assert "seed" not in step.inputs


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"people": None}, "pairs.selection: labels need .*images, or pairs.people"),
        ({"selection": "frontier"}, "pairs.people: .*labels, not to frontier"),
    ],
)
def test_contradictions_are_named(pairs, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**pairs)


def test_prompts_need_metadata_for_simulated_people(tmp_path):
    with Run.open(tmp_path) as run:
        tiny_run.fill(run, recipe(), tiny_run.prompts(2))
        with pytest.raises(ValueError, match=r"pairs\.people: shapes need metadata that 2 of the 2 prompts"):
            pair(Job(recipe(), run, (run.artifact("pairs"),)))
