"""Print plans, votes and results of human studies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.cli.tables import add_row, percent, points, print_json, print_text, show, table

if TYPE_CHECKING:
    from capo.people.collect import Added


PILOT_PROMPTS, PILOT_RATERS = 40, 6
"""The size from which a first study measures how votes vary."""


def print_power(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    print_text(
        f"{plan['prompts']:,} prompts x {plan['raters']:,} raters: a win-rate of "
        f"{percent(0.5 + plan['difference'])} is shown with a probability of {percent(plan['power'], 0)}."
    )
    smallest = plan["smallest_difference"]
    wanted = percent(plan["wanted"], 0)
    if smallest is None:
        print_text(f"No difference is shown with a probability of {wanted}.")
    else:
        print_text(f"Smallest difference shown with a probability of {wanted}: {points(smallest)} points.")
    _print_variation(plan)
    print_text(f"Needed for {points(plan['difference'])} points with a probability of {wanted}:")
    needs = table(["Raters", "Prompts", "Votes"], right=["Raters", "Prompts", "Votes"])
    for need in plan["needed"]:
        prompts = need["prompts"]
        votes = None if prompts is None else f"{prompts * need['raters']:,}"
        add_row(needs, (need["raters"], "no number suffices" if prompts is None else f"{prompts:,}", votes))
    show(needs)


def _print_variation(plan: Mapping[str, Any]) -> None:
    measured = plan["measured"]
    source, agreement = "Assumed", percent(plan["agreement"])
    if measured is not None:
        size = f"{measured['raters']:,} raters, {measured['prompts']:,} prompts"
        source, agreement = f"Measured in {measured['study']} ({size})", percent(measured["agreement"])
    taken = "" if measured is None or measured["agreement"] >= 0.5 else " (taken as 50%)"
    print_text(
        f"{source}: two raters agree on {agreement} of pairs{taken}; their win-rates spread by "
        f"{100 * plan['spread']:.1f} points."
    )
    if measured is not None and (measured["prompts"] < PILOT_PROMPTS or measured["raters"] < PILOT_RATERS):
        print_text(
            f"Warning: fewer than {PILOT_PROMPTS} prompts or {PILOT_RATERS} raters measure this poorly; "
            "extend the first study"
        )


def print_added(added: "Sequence[Added]", as_json: bool) -> None:
    if as_json:
        print_json({"files": [asdict(each) for each in added]})
        return
    for each in added:
        if each.outcome == "refused":
            print_text(f"refused: {each.reason}")
        else:
            print_text(f"{each.outcome}: {each.file}: {each.votes:,} votes of {each.rater}")


def print_report(folder: Path, results: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    names = results["models"]
    several = len(results["questions"]) > 1
    columns = ["Model", *(["Question"] if several else []), "Win-rate", "95% interval", "p", "Alpha"]
    columns.append("Prompts x raters")
    grid = table(columns, title=f"Votes against {names['base']}", right=columns[1 + several :])
    for each in results["comparisons"]:
        rate = each["win_rate"]
        cells = [names[each["model"]], *([each["question"]] if several else []), percent(rate["value"])]
        cells.append(f"{percent(rate['low'])} to {percent(rate['high'])}")
        cells.append("<0.001" if rate["p"] < 0.001 else f"{rate['p']:.3f}")
        cells.append("" if each["alpha"] is None else f"{each['alpha']:.2f}")
        add_row(grid, (*cells, f"{rate['prompts']:,} x {rate['raters']:,}"))
    show(grid)
    for rater in results["raters"]:
        if rater["set_aside"]:
            print_text(f"Set aside: {rater['rater']}: {rater['set_aside']}")
    if results["sides"]:
        sides = results["sides"]
        print_text(
            f"Left side: {percent(sides['value'])} ({percent(sides['low'])} to {percent(sides['high'])})"
        )
    if results["seconds"]:
        print_text(f"Time a vote: {results['seconds']['median']:.1f} s")
    print_text(f"Report: {folder / 'report' / 'index.html'}")


def print_exported(written: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(written)
        return
    print_text(f"Wrote {written['pairs']:,} pairs to {written['directory']}")
    if written.get("equal_images"):
        print_text(f"Left out {written['equal_images']} pairs with two equal images")
    if written.get("long_prompts"):
        print_text(
            f"Warning: Rapidata shortens {written['long_prompts']} prompts of more than 400 characters, so "
            "people will read other texts"
        )


def print_imported(imported: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(imported)
        return
    print_text(
        f"{imported['outcome']}: {imported['votes']:,} votes of {imported['raters']:,} raters from "
        f"{imported['source']}"
    )
    if imported["without_choice"]:
        print_text(f"{imported['without_choice']} annotations without a choice are no votes")
