"""The page of a human study's results, in the look of the other reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo.people.human_study import BASE, PAGE, HumanStudy, Key, StudyImage
from capo.people.screening import FEWEST_CATCH_TRIALS
from capo.reporting.forest import Forest, compared
from capo.reporting.pictures import Picture, embed
from capo.reporting.templating import environment
from capo.reporting.wording import Verdict, count, interval, percent
from capo.store.manifest import versions

SHOWN = 6
"""Pairs shown as those with most, and with least, agreement."""

PIXELS = 320
"""Longest side of an image."""

FEWEST_PROMPTS = 20
"""Prompts below which a study is too small for a verdict, as in an evaluation."""


@dataclass(frozen=True)
class ShownPair:
    """A pair with its votes; the model's image comes first, whatever raters saw."""

    row: Mapping[str, Any]
    model: Picture
    base: Picture


def render_votes(results: Mapping[str, Any], study: HumanStudy, key: Key, folder: Path) -> str:
    """Return the page. Equal votes give equal text."""
    names = results["models"]
    most, least = extremes(results["pairs"])
    comparisons = results["comparisons"]
    categories = sorted({name for each in comparisons for name in each["categories"]})
    return (
        environment()
        .get_template("votes.html.j2")
        .render(
            results=results,
            names=names,
            base=names[BASE],
            texts={question["name"]: question["text"] for question in results["questions"]},
            verdict=verdict(results),
            warnings=warnings(results),
            forest=_forest(results),
            categories=categories,
            most=[_shown(row, study, key, folder) for row in most],
            least=[_shown(row, study, key, folder) for row in least],
            aside=[rater for rater in results["raters"] if rater["set_aside"]],
            versions=versions(),
        )
    )


def verdict(results: Mapping[str, Any]) -> Verdict:
    """Return the outcome for the tuned model by the first question, in one sentence."""
    first = results["comparisons"][0]
    rate = first["win_rate"]
    model, base = results["models"][first["model"]], results["models"][BASE]
    share = f"{percent(rate['value'])} of votes (95% interval {interval(rate['low'], rate['high'])})"
    if rate["prompts"] < FEWEST_PROMPTS:
        prompts = count(rate["prompts"], "prompt")
        return Verdict(
            f"Too few to say: {prompts}, a verdict needs at least {FEWEST_PROMPTS}. On these, {model} wins "
            f"{share}.",
            "unclear",
        )
    if rate["low"] > 0.5:
        return Verdict(f"Raters prefer {model} to {base}: it wins {share}.", "better")
    if rate["high"] < 0.5:
        return Verdict(f"Raters prefer {base} to {model}, which wins {share}.", "worse")
    return Verdict(
        f"Raters show no clear preference between {model} and {base}: {model} wins {share}.", "unclear"
    )


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before the numbers."""
    found = []
    first = results["comparisons"][0]["win_rate"]
    if first["raters"] < 2:
        found.append(
            "All votes are of one rater, and say nothing about other raters: the interval is 0 to 100%."
        )
    elif (here := first["raters"]) < results["planned_raters"]:
        found.append(
            f"The win-rate is that of {count(here, 'rater')}; {results['planned_raters']} were planned."
        )
    sides = results["sides"]
    if sides and not sides["low"] <= 0.5 <= sides["high"]:
        side, share = ("left", sides["value"]) if sides["value"] > 0.5 else ("right", 1 - sides["value"])
        found.append(
            f"Raters favor the {side} side: {percent(share)} of choices. Sides are exchanged at random, so "
            "this adds noise but favors no model."
        )
    lost = results["votes"]["judgments"] - results["votes"]["counted"]
    if lost > results["votes"]["judgments"] / 4:
        found.append(
            f"{count(lost, 'vote')} of {results['votes']['judgments']:,} do not count, because their raters "
            "were set aside."
        )
    judged = max(rater["judged"] for rater in results["raters"])
    if judged < FEWEST_CATCH_TRIALS:
        found.append(
            f"No rater answered more than {count(judged, 'catch trial')} with a right answer, and the rule "
            f"needs {FEWEST_CATCH_TRIALS}: raters who click at random are not recognized by their answers."
        )
    return found


def extremes(pairs: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the pairs with most and with least agreement; a pair is in one of the lists only.

    Agreement is the distance of the share of votes from 1/2; with equal ones, more votes come first. Pairs
    with one vote say nothing.
    """
    ranked = sorted(
        (row for row in pairs if row["votes"] > 1),
        key=lambda row: (-abs(row["share"] - 0.5), -row["votes"], row["pair"], row["question"]),
    )
    shown = min(SHOWN, (len(ranked) + 1) // 2)
    most = ranked[:shown]
    rest = sorted(ranked[shown:], key=lambda row: (abs(row["share"] - 0.5), -row["votes"], row["pair"]))
    return most, rest[:shown]


def _forest(results: Mapping[str, Any]) -> Forest:
    several = len(results["questions"]) > 1
    texts = {question["name"]: question["text"] for question in results["questions"]}
    entries = []
    for each in results["comparisons"]:
        rate = each["win_rate"]
        name = results["models"][each["model"]]
        label = f"{name}: {texts[each['question']]}" if several else name
        entries.append((label, "mean", (rate["value"], rate["low"], rate["high"])))
    return compared(entries, 0.5)


def _shown(row: Mapping[str, Any], study: HumanStudy, key: Key, folder: Path) -> ShownPair:
    pair = next(pair for pair in study.pairs if pair.pair == row["pair"])
    sides = {key.pairs[pair.pair].left: pair.left, key.pairs[pair.pair].right: pair.right}

    def picture(image: StudyImage) -> Picture:
        return embed((folder / PAGE / image.file).read_bytes(), PIXELS)

    return ShownPair(row, picture(sides[row["model"]]), picture(sides[BASE]))
