"""The choice among the values of a sweep, on synthetic validations."""

import numpy as np
import pytest

from capo.recipe import RecipeError, load_recipe
from capo.tuning.choice import choose, falls_behind, gap
from capo.tuning.run_sweep import _ended
from capo.tuning.sweep import Sweep
from capo.tuning.sweep_results import sweep_results
from capo.tuning.value_trial import Trial, Validated

NOISE = np.random.default_rng(0).normal(0, 0.1, 400)
"""What a prompt adds to the win-rate of every value."""


def rates(mean, prompts=400, own=0.05, seed=1):
    """Win-rates of prompts with exactly this mean; `own` is the standard deviation of a value's own noise."""
    values = NOISE[:prompts] + np.random.default_rng(seed).normal(0, own, prompts)
    return values - values.mean() + mean


def row(step, mean, held_out=None, prompts=400, seed=1):
    training = rates(mean, prompts, seed=seed)
    other = None if held_out is None else rates(held_out, prompts, seed=seed + 100)
    return Validated(step, {"first": training}, training, other, 0.1)


def trial(beta, mean, held_out=None, ending="done", prompts=400):
    return Trial(
        beta, ending, "" if ending == "done" else "why", (row(100, mean, held_out, prompts, int(beta * 8)),)
    )


def curve(rate_of, values, **settings):
    return [trial(beta, rate_of(beta), **settings) for beta in values]


def test_the_largest_value_within_a_standard_error_is_chosen():
    trials = curve({5: 0.640, 10: 0.642, 20: 0.641, 40: 0.60}.get, (5, 10, 20, 40))
    error = gap(trials[1].best.training, trials[2].best.training).error
    assert 0.001 < error < 0.01
    choice = choose(trials)
    assert (choice.best, choice.chosen, choice.edge) == (10, 20, None)


def test_errors_are_those_of_differences_on_the_same_prompts():
    ours, theirs = rates(0.62, seed=1), rates(0.60, seed=2)
    difference = gap(ours, theirs)
    assert difference.value == pytest.approx(0.02)
    assert difference.error == pytest.approx((ours - theirs).std(ddof=1) / 20)
    assert difference.error < ours.std() / 20
    ours[0] = np.nan
    assert np.isfinite(gap(ours, theirs).value)


def test_a_diverged_or_stopped_value_is_not_chosen():
    trials = [
        trial(5, 0.9, ending="diverged"),
        trial(10, 0.6),
        trial(20, 0.58),
        trial(40, 0.6, ending="behind"),
    ]
    assert choose(trials).chosen == 10


def test_a_diverged_value_says_nothing_about_the_others():
    trials = [trial(5, 0.605, prompts=8), trial(10, 0.6, prompts=8), trial(20, 0.4, ending="diverged")]
    recipe = load_recipe("shapes", ["train.beta=20"])
    choice = choose(trials)
    assert (choice.best, choice.chosen) == (5, None)
    assert "keep β 5" in sweep_results(Sweep(recipe), trials, choice)["conclusion"], "the recipe's diverged"
    alone = choose(trials[1:])
    assert (alone.best, alone.chosen) == (10, None)
    assert "only β 10 completed" in sweep_results(Sweep(recipe), trials[1:], alone)["conclusion"]


def test_a_prompt_without_scores_is_left_out_and_counted():
    values = rates(0.6, prompts=8)
    values[0] = np.nan
    one = Trial(10, "done", "", (Validated(100, {"first": values}, values, None, 0.1),))
    assert _ended(one) == f"β 10: win-rate {100 * values[1:].mean():.1f}% on 7 of 8 prompts at step 100"
    assert choose([one]).prompts == 7


@pytest.mark.parametrize(
    ("held_out", "excluded"), [({5: 0.56, 10: 0.6, 20: 0.57}, {5}), ({5: 0.45, 10: 0.44, 20: 0.52}, {5, 10})]
)
def test_values_that_the_held_out_rewards_reject_are_excluded(held_out, excluded):
    trials = [trial(b, {5: 0.7, 10: 0.65, 20: 0.6}[b], held_out[b]) for b in (5, 10, 20)]
    choice = choose(trials)
    assert set(choice.hacking) == excluded
    assert choice.best == min({5, 10, 20} - excluded)


def test_a_value_that_gains_by_all_rewards_is_not_excluded():
    assert choose([trial(b, 0.5 + 1 / b, 0.5 + 0.5 / b) for b in (5, 10, 20)]).hacking == {}


def test_too_few_prompts_give_no_conclusion_but_a_number_of_prompts():
    trials = curve({5: 0.61, 10: 0.6, 20: 0.605}.get, (5, 10, 20), prompts=8)
    choice = choose(trials)
    assert choice.chosen is None
    assert 8 < choice.needed < 2000
    results = sweep_results(Sweep(load_recipe("shapes")), trials, choice)
    assert f"{choice.needed:,}" in results["conclusion"]
    assert results["chosen"] is None


def test_with_many_prompts_equal_values_are_a_conclusion():
    """Then the value closest to the base is as good as any."""
    choice = choose(curve(lambda beta: 0.6, (5, 10, 20)))
    assert choice.needed <= 400
    assert choice.chosen == 20


def tried(rate_of, beta=10, **settings):
    """The values that a sweep tries, in order, if trainings end with these win-rates."""
    recipe = load_recipe("shapes", [f"train.beta={beta}"])
    sweep, trials = Sweep(recipe, **settings), []
    waiting = list(sweep.first)
    while waiting:
        value = waiting.pop(0)
        trials.append(trial(value, rate_of(value)))
        if not waiting and (further := sweep.further(trials)) is not None:
            waiting.append(further)
    return [each.beta for each in trials], choose(trials)


def test_a_sweep_steps_further_while_the_best_is_at_an_edge():
    values, choice = tried(lambda beta: 0.7 - 0.05 * abs(np.log2(beta / 80)))
    assert values == [10, 20, 5, 40, 80, 160]
    assert (choice.best, choice.edge) == (80, None)
    values, choice = tried(lambda beta: 0.7 - 0.05 * abs(np.log2(beta / 2)))
    assert values == [10, 20, 5, 2.5, 1.25]
    assert choice.best == 2.5


def test_a_sweep_ends_inside_at_a_limit_and_with_named_values():
    assert tried(lambda beta: 0.7 - 0.05 * abs(np.log2(beta / 10)))[0] == [10, 20, 5]
    values, choice = tried(lambda beta: 0.9 - 0.01 * beta)
    assert values == [10, 20, 5, 2.5, 1.25, 0.625]
    assert choice.edge == "low"
    assert tried(lambda beta: 0.9 - 0.01 * beta, named=(20, 10, 40))[0] == [10, 40, 20]


@pytest.mark.parametrize(
    ("ours", "theirs", "step", "ends"),
    [
        ((0.55, None), (0.60, None), 50, True),
        ((0.55, None), (0.60, None), 49, False),
        ((0.55, None), (0.60, None), 100, False),
        ((0.598, None), (0.60, None), 50, False),
        ((0.65, None), (0.60, None), 50, False),
        ((0.55, 0.55), (0.60, 0.52), 50, False),
        ((0.55, 0.52), (0.60, 0.55), 50, True),
    ],
)
def test_a_training_ends_when_it_is_far_behind(ours, theirs, step, ends):
    """Never before half of the steps, and not if the held-out rewards prefer it."""
    running = Trial(40, "done", "", (row(step, *ours, seed=5),))
    other = Trial(10, "done", "", (row(step, *theirs, seed=6),))
    why = falls_behind(running, [other], step, 100)
    assert (why is not None) == ends
    assert falls_behind(running, [Trial(10, "diverged", "", other.course)], step, 100) is None


@pytest.mark.parametrize(
    ("overrides", "settings", "field"),
    [
        (["train.validation_prompts=null"], {}, "train.validation_prompts"),
        (["evaluate.prompts.source=shapes:validation"], {}, "evaluation prompts"),
        ([], {"named": (5.0, 5.0)}, "--values"),
        (["train.warmup_steps=25"], {"steps": 20}, "--steps"),
    ],
)
def test_recipes_that_cannot_be_tuned_are_rejected(overrides, settings, field):
    with pytest.raises(RecipeError, match=field):
        Sweep(load_recipe("shapes", overrides), **settings).check()
