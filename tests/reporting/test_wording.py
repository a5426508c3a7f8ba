"""Formatted numbers and verdicts."""

import pytest

from capo.reporting import wording
from capo.reporting.results_schema import Results


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (20.5049, "20.50"),
        (0.67631, "0.6763"),
        (-3.14159, "−3.142"),
        (1234.5, "1,234"),
        (2.3e-7, "2.300×10⁻⁷"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds).replace(wording.THIN, " ") == text


@pytest.mark.parametrize(("count", "text"), [(900, "900 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB")])
def test_size(count: int, text: str) -> None:
    assert wording.size(count).replace(wording.THIN, " ") == text


def test_shares() -> None:
    assert wording.percent(0.6317) == "63.2%"
    assert wording.interval(0.601, 0.662) == "60.1 to 66.2%"
    assert wording.points(-0.041) == "−4.1"
    assert wording.percent(None) == wording.points(None) == wording.interval(None, 0.5) == "–"


def test_differences_and_their_p() -> None:
    assert [wording.signed(v, 2) for v in (0.0412, -0.0412, 0.0, None)] == ["+0.041", "−0.041", "0", "–"]
    assert [wording.p_value(p) for p in (0.0004, 0.031, 1.0)] == ["p < 0.001", "p = 0.031", "p = 1"]


def test_excerpt_cuts_long_prompts() -> None:
    assert wording.excerpt("a" * 240) == "a" * 240
    assert wording.excerpt("a" * 241) == "a" * 239 + "…"


def results(
    low: float,
    high: float,
    held_out: tuple[float, float] | None = None,
    judge: tuple[float, float] | None = None,
    null: tuple[float, float] | None = None,
    prompts: int = 20,
) -> Results:
    """Results with these bounds; values lie in the middle."""

    def reward(name: str, use: str, bounds: tuple[float, float]) -> dict[str, object]:
        rate = {"win_rate": sum(bounds) / 2, "low": bounds[0], "high": bounds[1]}
        same = {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
        signs = {"won": 1, "lost": 1, "tied": 2, "p": 1.0}
        means = {"mean_base": 1.0, "mean_tuned": 1.0, "mean_difference": same}
        return {"name": name, "use": use, "sign_test": signs, **means, **rate}

    rewards = [reward("clip", "train", (low, high))]
    if held_out:
        rewards.append(reward("other", "evaluate", held_out))
    shares = judge and {
        "name": "shapes",
        "base": 0.6,
        "tuned": 0.6 + sum(judge) / 2,
        "difference": sum(judge) / 2,
        "low": judge[0],
        "high": judge[1],
    }
    training = {"value": (low + high) / 2, "low": low, "high": high}
    if null:
        training |= {"null": sum(null) / 2, "null_low": null[0], "null_high": null[1]}
    return Results.model_validate(
        {
            "models": {"base": "the base model", "tuned": "train/best"},
            "prompts": prompts,
            "samples_per_prompt": 2,
            "rewards": rewards,
            "training_win_rate": training,
            "judge": shares,
        }
    )


@pytest.mark.parametrize(
    ("outcome", "tone", "words"),
    [
        (results(0.55, 0.65), "better", "beats"),
        (results(0.45, 0.65), "unclear", "no clear difference"),
        (results(0.35, 0.45), "worse", "loses"),
        (results(0.55, 0.65, held_out=(0.52, 0.6)), "better", "other agrees (56.0%)"),
        (results(0.55, 0.65, held_out=(0.48, 0.6)), "better", "undecided"),
        (results(0.55, 0.65, held_out=(0.4, 0.48)), "mixed", "reward hacking"),
        (results(0.55, 0.65, judge=(-0.1, -0.02)), "mixed", "reward hacking"),
        (results(0.55, 0.65, judge=(0.02, 0.1)), "better", "66.0% of its images, compared with 60.0%"),
        (results(0.35, 0.45, judge=(-0.1, -0.02)), "worse", "loses"),
        (results(0.55, 0.65, null=(0.45, 0.55)), "better", "beats"),
        (results(0.55, 0.65, null=(0.3, 0.4)), "unclear", "Too few to say"),
        (results(0.55, 0.65, prompts=19), "unclear", "Too few to say"),
        (results(0.35, 0.45, prompts=6), "unclear", "win 40.0% of comparisons"),
    ],
)
def test_verdict(outcome: Results, tone: str, words: str) -> None:
    verdict = wording.verdict(outcome)
    assert verdict.tone == tone
    assert words in verdict.sentence
