"""The cost of a study, from the plans of its recipes; shared work counts once."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from capo.cli import app
from capo.cost.plan import plan_run
from capo.studies import load_study
from capo.studies.study_cost import study_cost
from capo.studies.study_run import runs_of
from synthetic_counts import FULL, SAMPLING

STUDY = {
    "name": "cost",
    "title": "Cost",
    "recipe": "shapes",
    "seeds": [0, 1],
    "rows": [
        {"name": "capo"},
        {"name": "ipo", "set": {"train.objective": "ipo", "train.beta": 40}},
        {"name": "few", "set": {"generate.samples_per_prompt": 4}},
        {"name": "further", "start": "capo"},
        {"name": "soup", "soup": ["capo", "ipo"]},
    ],
}


@pytest.fixture(autouse=True)
def _any_model(monkeypatch):
    """Counts and identities of any model will do; those of a recipe's own are tested elsewhere."""
    monkeypatch.setattr("capo.cost.plan.count_sampling", lambda _: SAMPLING)
    monkeypatch.setattr("capo.cost.plan.count_training", lambda _: FULL)
    monkeypatch.setattr("capo.diffusion.checkpoint_identity", lambda *_: "weights")
    monkeypatch.setattr("capo.rewards.resolve.reward_identity", lambda section: section.name)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def stage_hours(study, row):
    (named,) = [each for each in study.rows if each.name == row]
    plan = plan_run(study.row_recipe(named, 0), "l40s", 0.5)
    return {stage.name: stage.hours for stage in plan.stages}


def test_shared_work_counts_once(file):
    study = load_study(file)
    cost = study_cost(runs_of(study, file.parent), "l40s", 0.5)
    found = {each.kind: each for each in cost.kinds}
    whole, few = stage_hours(study, "capo"), stage_hours(study, "few")
    # Per seed: 8 samples for `capo` and `ipo`, 4 for `few`, and the policy's own for `further`.
    assert (found["samples"].different, found["samples"].uses) == (6, 8)
    assert found["samples"].hours == pytest.approx(2 * (2 * whole["generate"] + few["generate"]))
    assert found["samples"].alone == pytest.approx(2 * (3 * whole["generate"] + few["generate"]))
    assert found["scores"].hours == pytest.approx(2 * (2 * whole["score"] + few["score"]))
    # Validation runs for the base and at steps 50 and 100; evaluation for two bases and the policy.
    assert (found["validation"].different, found["baseline"].different) == (2, 2)
    assert found["train"].hours == pytest.approx(8 * (whole["train"] + whole["validation"] * 2 / 3))
    assert (found["evaluate"].different, found["baseline"].uses) == (10, 10)
    assert found["evaluate"].hours == pytest.approx(10 * whole["evaluate"] / 3)
    trained = 6 * sum(whole.values()) + 2 * sum(few.values())
    assert cost.alone == pytest.approx(trained + 2 * whole["evaluate"])


def test_rewards_that_rows_share_are_scored_once(file, monkeypatch):
    """Every two rows share one of three rewards; `aesthetic` takes twice as long as the others."""
    flops = {"aesthetic": 2, "alignment": 1, "preference": 1}
    monkeypatch.setattr("capo.cost.plan.work.score_flops", lambda reward: flops[reward.name] * 10**9)
    names = [["aesthetic", "alignment"], ["preference", "aesthetic"], ["preference", "alignment"]]
    rows = [{"name": "-".join(some), "set": {"rewards": [{"name": name} for name in some]}} for some in names]
    path = file.with_name("rewards.yaml")
    path.write_text(yaml.safe_dump(STUDY | {"rows": rows, "seeds": [0]}))
    study = load_study(path)
    cost = study_cost(runs_of(study, path.parent), "l40s", 0.5)
    scores = {each.kind: each for each in cost.kinds}["scores"]
    single = stage_hours(study, "preference-alignment")["score"] / 2
    assert (scores.different, scores.uses) == (3, 6)
    assert (scores.hours, scores.alone) == pytest.approx((4 * single, 8 * single))


def test_the_command_counts_only_the_chosen_seeds(file):
    words = ["compare", str(file), "--plan", "--gpu", "l40s", "--utilization", "0.5", "--seeds", "0"]
    called = CliRunner().invoke(app, [*words, "--json"])
    samples, *_ = json.loads(called.stdout)["kinds"]
    assert (samples["kind"], samples["different"], samples["uses"]) == ("samples", 3, 4)
    shown = CliRunner().invoke(app, words).stdout
    assert "L40S" in shown
    assert "50%" in shown
    assert "3 for 4" in shown
    assert not (file.parent / "studies").exists()
    unknown = CliRunner().invoke(app, ["compare", str(file), "--plan", "--gpu", "l40"])
    assert unknown.exit_code == 1
    assert "did you mean 'l40s'?" in unknown.stderr
