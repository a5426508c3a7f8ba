"""The calibration report on scores whose statistics are known."""

import itertools
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny_run
from capo.cli import app
from capo.pairing.calibration_report import calibration_report
from capo.pairing.calibration_statistics import agreement, compared_samples, tied_share
from capo.pairing.pair_table import PairTable
from capo.pairing.underweighted import advice
from capo.recipe import dump_recipe
from capo.store import Run, WorkspaceError

STRONG = {"name": "strong", "source": "function_rewards:contrast", "temperature": 1.0}
WEAK = {"name": "weak", "source": "function_rewards:contrast", "temperature": 50.0, "weight": 2.0}
RATIO = {"name": "ratio", "source": "function_rewards:redness"}


def scored(path, rewards, scores, **sections):
    """Make a run with these scores [P, 4] by reward; return the recipe."""
    recipe = tiny_run.recipe(rewards, **sections)
    prompts = tiny_run.prompts(len(next(iter(scores.values()))))
    with Run.open(path, recipe) as run:
        tiny_run.fill(run, recipe, prompts)
        for section in recipe.rewards:
            tiny_run.put_scores(run, section, prompts, scores[section.name])
    return recipe


def normal(prompts=60):
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(20, 2, (prompts, 4)) for name in ("strong", "weak")}
    return scores | {"ratio": rng.uniform(0.4, 0.6, (prompts, 4))}


def calibrated(scores, temperature):
    """Compute Eq. 7 by plain loops; returns [P, 4]."""
    wins = 1 / (1 + np.exp(-(scores[:, :, None] - scores[:, None]) / temperature))
    return np.array([[sum(row[i, j] for j in range(4) if j != i) / 3 for i in range(4)] for row in wins])


def test_numbers_agree_with_plain_arithmetic(tmp_path):
    scores = normal()
    recipe = scored(tmp_path, [STRONG, WEAK], scores)
    found = calibration_report(recipe, Run(tmp_path))
    rewards = {"strong": calibrated(scores["strong"], 1.0), "weak": calibrated(scores["weak"], 50.0)}
    combined = (rewards["strong"] + 2 * rewards["weak"]) / 3
    for reward in found.rewards:
        raw, mine = scores[reward.name], rewards[reward.name]
        assert reward.mean == pytest.approx(raw.mean())
        assert reward.std == pytest.approx(raw.std())
        assert reward.within == pytest.approx(math.sqrt(raw.var(axis=1).mean()))
        assert reward.spread == pytest.approx(mine.std())
        part = (
            {"strong": 1, "weak": 2}[reward.name]
            / 3
            * np.cov(mine.ravel(), combined.ravel(), bias=True)[0, 1]
        )
        assert reward.share == pytest.approx(part / combined.var())
        assert reward.ties == 0
    assert sum(reward.share for reward in found.rewards) == pytest.approx(1)
    assert found.correlation[0][1] == pytest.approx(
        np.corrcoef(rewards["strong"].ravel(), rewards["weak"].ravel())[0, 1]
    )


def test_an_underweighted_reward_is_reported_with_a_better_temperature(tmp_path):
    scores = normal()
    recipe = scored(tmp_path, [STRONG, WEAK, RATIO], scores)
    found = calibration_report(recipe, Run(tmp_path))
    strong, weak, ratio = found.rewards
    assert strong.suggestion is None
    (warning, other) = found.warnings
    assert warning.startswith("weak is underweighted")
    suggested = weak.suggestion["temperature"]
    assert f"temperature {suggested:g} would" in warning
    # The scores have one distribution, so one temperature spreads them alike; two digits are reported.
    assert suggested == pytest.approx(1.0, rel=0.15)
    assert calibrated(scores["weak"], suggested).std() == pytest.approx(strong.spread, rel=0.03)
    assert other.startswith("ratio is underweighted")
    exponent = ratio.suggestion["exponent"]
    powers = scores["ratio"][:, :, None] ** exponent
    wins = powers / (powers + scores["ratio"][:, None] ** exponent)
    assert ((wins.sum(axis=2) - 0.5) / 3).std() == pytest.approx(strong.spread, rel=0.03)
    # With the suggested temperature, no reward is underweighted.
    helped = [
        STRONG,
        WEAK | {"temperature": suggested},
        RATIO | {"exponent": exponent, "comparison": "power-ratio"},
    ]
    again = tiny_run.recipe(helped)
    assert calibration_report(again, Run(tmp_path)).warnings == ()


def test_no_temperature_helps_against_ties(tmp_path):
    scores = normal()
    scores["weak"] = np.zeros_like(scores["weak"])
    scores["weak"][:5, 0] = 1.0
    found = calibration_report(scored(tmp_path, [STRONG, WEAK], scores), Run(tmp_path))
    assert found.rewards[1].suggestion is None
    assert "ties" in found.warnings[0]


def test_share_of_ties():
    rng = np.random.default_rng(1)
    prompt = np.repeat(np.arange(30), rng.integers(1, 7, 30))
    scores = rng.integers(0, 3, len(prompt)).astype(float)
    two = [(a, b) for a, b in itertools.combinations(range(len(prompt)), 2) if prompt[a] == prompt[b]]
    assert tied_share(prompt, scores) == pytest.approx(np.mean([scores[a] == scores[b] for a, b in two]))


def test_agreement_counts_ties_of_the_scores_half():
    # Five comparisons: agreed, opposed, a tie of the scores, a tie of people, and a missing score.
    scores = np.array([2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 1.0, 2.0, np.nan, 0.0])
    labels = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 1.0, 0.0])
    prompt, nothing = np.repeat(np.arange(5), 2), np.zeros(10, dtype=bool)
    table = PairTable(
        rewards=("labels",),
        prompt_ids=tuple("abcde"),
        prompt=prompt,
        sample=np.tile([0, 1], 5),
        calibrated=labels[:, None],
        combined=labels,
        chosen=nothing,
        rejected=nothing,
    )
    pairs = compared_samples(table)
    assert agreement(table, scores, pairs) == pytest.approx((1 + 0 + 0.5) / 3)
    assert agreement(table, np.full(10, np.nan), pairs) is None


def test_samples_without_a_score_are_counted_and_excluded(tmp_path):
    scores = normal(6)
    scores["strong"][0, 1] = np.nan
    recipe = scored(tmp_path, [STRONG, WEAK], scores, pairs={"max_skipped": 0.2})
    found = calibration_report(recipe, Run(tmp_path))
    assert (found.samples, found.set_aside) == (24, 1)
    kept = np.delete(scores["weak"].ravel(), 1)
    assert found.rewards[1].mean == pytest.approx(kept.mean())


def test_the_command(tmp_path):
    recipe = scored(tmp_path / "run", [STRONG, WEAK], normal())
    (tmp_path / "run" / "recipe.yaml").write_text(dump_recipe(recipe))
    arguments = ["calibration", "--run", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "Warning: weak is underweighted" in shown.output
    changed = CliRunner().invoke(app, [*arguments, "--set", "rewards.1.temperature=1", "--json"])
    values = json.loads(changed.stdout)
    assert values["warnings"] == []
    assert [reward["name"] for reward in values["rewards"]] == ["strong", "weak"]


def test_a_run_without_scores_is_rejected(tmp_path):
    recipe = tiny_run.recipe([STRONG])
    with Run.open(tmp_path) as run:
        tiny_run.fill(run, recipe, tiny_run.prompts(2))
    with pytest.raises(WorkspaceError, match="scores/strong"):
        calibration_report(recipe, Run(tmp_path))


def test_opposed_rewards_have_no_shares(tmp_path):
    """The second reward is minus the first, so their sum does not vary: shares of it mean nothing."""
    scores = normal()["strong"]
    opposed = WEAK | {"temperature": 1.0, "weight": 1.0}
    recipe = scored(tmp_path, [STRONG, opposed], {"strong": scores, "weak": -scores})
    assert [reward.share for reward in calibration_report(recipe, Run(tmp_path)).rewards] == [None, None]


def test_advice_follows_from_ties_and_comparison():
    assert "temperature" in advice(0.0, "bradley-terry")
    assert "exponent" in advice(0.0, "power-ratio")
    for ties in (0.8, 1.0):
        assert "temperature" not in advice(ties, "bradley-terry")
    assert "80% of its comparisons are ties" in advice(0.8, "bradley-terry")
    assert "weight" not in advice(1.0, "bradley-terry")
