"""Results from known scores and verdicts; every number is checked by hand or by plain loops."""

import numpy as np
import pytest
import torch

import tiny_run
from capo.evaluation.win_rates import Diversity, Measurements, evaluation_results, result_warnings
from capo.method import mean_interval
from capo.rewards import RewardError
from capo.scoring.prompt_win_rates import prompt_win_rates, same_seed_win_rates

REWARDS = [
    {"name": "red", "source": "function_rewards:redness"},
    {"name": "contrast", "source": "function_rewards:contrast"},
    {"name": "held", "source": "function_rewards:undeclared", "use": "evaluate"},
]


def numbers(scores, correct=None, diversity=None, same_noise=True, truncated=0, **recipe):
    """The results for scores [P, K] by reward and model."""
    count = len(next(iter(scores.values()))["base"])
    rewards = [r for r in REWARDS if r["name"] in scores]
    settings = tiny_run.recipe(rewards, evaluate={"null_row": False} | recipe)
    measured = Measurements(
        scores=scores,
        correct=correct,
        diversity=diversity,
        same_noise=same_noise,
        truncated_prompts=truncated,
    )
    prompts = tiny_run.prompts(count)
    return evaluation_results(settings.evaluate, settings.rewards, prompts, measured, settings.seed)


def test_images_without_a_score_are_excluded():
    base = np.array([[1.0, 3.0, np.nan], [1.0, 1.0, 1.0], [np.nan] * 3, [0.0, 0.0, 0.0]])
    tuned = np.array([[2.0, 2.0, 2.0], [0.0, np.nan, 2.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    rates = prompt_win_rates("red", tuned, base)
    np.testing.assert_allclose(rates, [0.5, 0.5, np.nan, 2.5 / 3])
    found = numbers({"red": {"base": base, "tuned": tuned}})
    assert found["rewards"][0]["win_rate"] == pytest.approx(np.mean([0.5, 0.5, 2.5 / 3]))
    assert found["rewards"][0]["missing"] == {"base": 4, "tuned": 1}
    assert found["rewards"][0]["mean_base"] == pytest.approx(7 / 8)
    assert found["rewards"][0]["by_category"]["one"]["prompts"] == 1
    (warning,) = found["warnings"]
    assert warning.startswith("5 images")


def test_the_training_mean_covers_prompts_with_all_rewards():
    base = np.zeros((3, 2))
    red, contrast = np.ones((3, 2)), -np.ones((3, 2))
    red[2], contrast[0] = np.nan, 1.0
    both = {"red": {"base": base, "tuned": red}, "contrast": {"base": base, "tuned": contrast}}
    assert numbers(both)["training_win_rate"]["value"] == pytest.approx(np.mean([1.0, 0.5]))


def test_a_reward_without_scores_is_rejected():
    base = np.ones((2, 2))
    with pytest.raises(RewardError, match="'red' scored both models on none of the 2 prompts"):
        numbers({"red": {"base": base, "tuned": np.full((2, 2), np.nan)}})


def test_one_prompt_has_no_standard_error():
    found = numbers({"red": {"base": np.zeros((1, 2)), "tuned": np.ones((1, 2))}})
    assert found["rewards"][0]["standard_error"] is None
    assert (found["rewards"][0]["low"], found["rewards"][0]["high"]) == (pytest.approx(0.05), 1.0)
    assert found["rewards"][0]["mean_difference"]["low"] is None


def test_identical_models_tie():
    same = np.random.default_rng(0).normal(size=(20, 4))
    found = numbers({"red": {"base": same, "tuned": same}})
    assert found["rewards"][0]["win_rate"] == 0.5
    assert found["warnings"] == []


def hacking(held, correct_tuned):
    zero, one = np.zeros((20, 2)), np.ones((20, 2))
    scores = {"red": {"base": zero, "tuned": one}, "held": {"base": zero, "tuned": held * one}}
    verdicts = {"base": one > 0, "tuned": np.full((20, 2), correct_tuned)}
    return numbers(scores, verdicts, judge="shapes")["warnings"]


def test_reward_hacking_is_reported():
    assert hacking(held=1, correct_tuned=True) == []
    (held,) = hacking(held=-1, correct_tuned=True)
    for words in ("held-out reward held", "0.0% [0.0, 13.9]", "100.0% [86.1, 100.0]", "reward hacking"):
        assert words in held
    (judged,) = hacking(held=1, correct_tuned=False)
    assert "shapes judge" in judged
    assert "100.0 percentage points fewer" in judged
    assert len(hacking(held=-1, correct_tuned=False)) == 2


def test_no_hacking_without_a_gain():
    """A model that is worse by every measure is not a case of reward hacking."""
    found = {
        "training_win_rate": {"value": 0.5, "low": 0.4, "high": 0.6},
        "rewards": [{"name": "h", "use": "evaluate", "win_rate": 0.1, "low": 0, "high": 0.2, "missing": {}}],
        "judge": {"name": "shapes", "difference": -0.5, "low": -0.6, "high": -0.4},
    }
    assert result_warnings(found) == []


def test_truncated_prompts_are_counted():
    scores = np.zeros((9, 2))
    found = numbers({"red": {"base": scores, "tuned": scores}}, truncated=2)
    assert found["truncated_prompts"] == 2
    (text,) = found["warnings"]
    assert text.startswith("2 of 9 ")


def test_judge_difference_is_paired_by_prompt():
    zero = np.zeros((4, 2))
    base = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)
    tuned = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], dtype=bool)
    found = numbers({"red": {"base": zero, "tuned": zero}}, {"base": base, "tuned": tuned}, judge="shapes")
    differences = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    low, high = mean_interval(differences, (-1, 1))
    assert found["judge"] == {
        "name": "shapes",
        "base": 0.625,
        "tuned": 0.875,
        "difference": 0.25,
        "low": low,
        "high": high,
        "categories": {
            "one": {"base": 0.5, "tuned": 0.75, "low": -1.0, "high": 1.0, "prompts": 2},
            "two": {"base": 0.75, "tuned": 1.0, "low": -1.0, "high": 1.0, "prompts": 2},
        },
    }


def test_same_noise_comparison_uses_equal_seeds():
    """Of three prompts: 1 > 0 and 0 < 2; missing on one side, 2 > 1; all missing."""
    base = np.array([[0.0, 2.0], [np.nan, 1.0], [np.nan, 5.0]])
    tuned = np.array([[1.0, 0.0], [4.0, 2.0], [3.0, np.nan]])
    np.testing.assert_allclose(same_seed_win_rates(tuned, base), [0.5, 1.0, np.nan])
    found = numbers({"red": {"base": base, "tuned": tuned}})["rewards"][0]
    assert found["same_seed"]["win_rate"] == pytest.approx(0.75)
    assert "same_seed" not in numbers({"red": {"base": base, "tuned": tuned}}, same_noise=False)["rewards"][0]


def test_joint_rates_by_hand():
    """By two rewards: better and equal, worse and better; a missing score, better and better."""
    base = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    first = np.array([[2.0, 0.0], [np.nan, 2.0], [0.0, 0.0]])
    second = np.array([[1.0, 2.0], [2.0, 2.0], [0.0, 1.0]])
    null = np.ones((3, 2))
    scores = {
        "red": {"base": base, "tuned": first, "null": null},
        "held": {"base": base, "tuned": second, "null": null},
    }
    found = numbers(scores)["joint"]
    assert found["rewards"] == ["red", "held"]
    assert found["domination"]["rate"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert found["collapse"]["rate"] == pytest.approx((0.0 + 0.0 + 1.0) / 3)
    assert found["domination"]["low"] <= found["domination"]["rate"] <= found["domination"]["high"]
    assert (found["domination"]["null"], found["collapse"]["null"]) == (0.0, 0.0)
    assert (found["won_by_all"], found["lost_by_all"], found["prompts"]) == (1, 1, 3)


def test_prompts_are_counted_and_tested():
    """6 prompts won and 1 lost of 8: 2 · (1 + 7) / 2^7 of the tosses of 7 coins are as uneven."""
    base = np.full((8, 2), 1.0)
    tuned = np.array([[2.0, 2.0]] * 6 + [[0.0, 1.0]] + [[0.0, 2.0]])
    signs = numbers({"red": {"base": base, "tuned": tuned}})["rewards"][0]["sign_test"]
    assert signs == {"won": 6, "lost": 1, "tied": 1, "p": pytest.approx(16 / 128)}


def test_difference_of_means_is_paired_by_prompt():
    """Prompts differ by hundreds and the models by one on every prompt; of 2^10 signs, 2 are as far."""
    base = np.arange(10.0)[:, None] * 100 + np.array([0.0, 2.0])
    tuned = base + 1.0
    tuned[3] = [np.nan, 304.0]  # 304 - 301 is 3 on this prompt
    found = numbers({"red": {"base": base, "tuned": tuned}})["rewards"][0]["mean_difference"]
    assert found["value"] == pytest.approx(1.2)
    assert found["low"] == pytest.approx(1.2 - 2.262157 * 0.2)
    assert found["p"] == 2 / 2**10


def test_power_follows_from_the_variance_over_prompts():
    base = np.tile([0.0, 2.0], (50, 1))
    tuned = np.array([[1.0, 1.0], [1.0, 3.0]] * 25)  # rates 1/2 and 3/4: std 1/8 · sqrt(50/49)
    power = numbers({"red": {"base": base, "tuned": tuned}})["rewards"][0]["power"]
    std = 0.125 * np.sqrt(50 / 49)
    assert power["detectable"] == pytest.approx((1.959964 + 0.841621) * std / np.sqrt(50))
    expected = [int(np.ceil((280.1585 * std / d) ** 2)) for d in (1, 2, 5)]
    assert power["prompts_needed"] == [
        {"points": d, "prompts": n} for d, n in zip((1, 2, 5), expected, strict=True)
    ]


def test_categories_have_intervals():
    generator = np.random.default_rng(0)
    base, tuned = generator.normal(size=(2, 20, 3))
    found = numbers({"red": {"base": base, "tuned": tuned}})["rewards"][0]
    rates = torch.from_numpy(prompt_win_rates("red", tuned, base)[::2])
    low, high = mean_interval(rates, (0, 1))
    assert found["by_category"]["one"] == {
        "win_rate": pytest.approx(rates.mean().item()),
        "low": low,
        "high": high,
        "prompts": 10,
    }


def test_a_loss_of_diversity_is_measured_and_reported():
    scores = {"red": {"base": np.zeros((4, 2)), "tuned": np.ones((4, 2))}}
    base = np.array([0.4, 0.5, 0.4, 0.3])
    alike = Diversity("dino", {"base": base, "tuned": base - [0.1, 0.1, 0.1, 0.12], "null": base + 0.01})
    found = numbers(scores, diversity=alike)
    reach = 3.182446 * 0.005  # t with 3 degrees of freedom, times the standard error
    assert found["diversity"] == {
        "embedder": "dino",
        "base": pytest.approx(0.4),
        "tuned": pytest.approx(0.295),
        "null": pytest.approx(0.41),
        "difference": pytest.approx(
            {"value": -0.105, "low": -0.105 - reach, "high": -0.105 + reach, "p": 1 / 8}
        ),
    }
    (warning,) = found["warnings"]
    assert "by dino is 0.295, compared with 0.4" in warning
    slightly = Diversity("dino", {"base": base, "tuned": base - 0.01})
    unsure = Diversity("dino", {"base": base, "tuned": base - [0.4, -0.2, 0.1, -0.1]})
    for harmless in (slightly, unsure, Diversity("dino", {"base": base, "tuned": base + 0.1})):
        assert numbers(scores, diversity=harmless)["warnings"] == []
