"""A study's results as Markdown: what `table.md` holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capo.reporting.wording import NONE, duration, interval, number, percent, points
from capo.studies.commands import run_command, study_command
from capo.studies.contrasts import ABOUT_CONTRASTS, Contrast, contrasts, nothing_compared
from capo.studies.hypervolume import standing, volume
from capo.studies.overoptimization import best_and_last

NULL = "base against itself"

ABOUT_FRONTS = (
    "Soups of policies, from one to the other. A row dominates another when its win-rate is nowhere lower "
    "and somewhere higher by the training rewards. The hypervolume is the share of the room between 50% and "
    "100% by every reward that rows dominate, with its 95% bootstrap interval over prompts; a row below 50% "
    "by any reward dominates nothing. More points cover more, also by chance."
)


ABOUT_NULL = (
    f"*{NULL}*: other images of the base, with other seeds, against its own: what it shows is chance."
)

ABOUT_COST = (
    "Drift: mean squared difference of the policy's and its reference's predictions on training pairs, at "
    "the step that was kept; error growth: of the denoising error on chosen samples over the reference's. "
    "The time is that of a run of one seed, had it made everything itself, earlier rounds included; a soup's "
    "is that of evaluation alone, for its policies are rows of their own."
)

ABOUT_EQUAL_DRIFT = (
    "What is said on the validation prompts where a row has first drifted as far, on straight lines between "
    "its validations (or from the base to the first): at most as far as every run goes, and at least, if "
    "that is less, as far as every run has gone by its first validation. Means over seeds ± the standard "
    "deviation between them."
)


def table(results: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """All tables of a study, each with what its numbers are, below what must be known before them."""
    parts = [f"# {results['title']}", _about(results)]
    if warnings:
        parts += ["**Warnings**", _list(warnings)]
    parts += [
        *_win_rates(results),
        *_comparisons(results),
        *_fronts(results),
        *_equal_drift(results),
        *_over_optimization(results),
        *_judge(results),
        *_scores(results),
        *_settings(results),
    ]
    return "\n\n".join(parts) + "\n"


def cell(estimate: Mapping[str, Any] | None, kind: str) -> str:
    """`61.6% (60.6 to 62.5%; seeds ±0.3)`, the judge's difference in points."""
    if estimate is None:
        return NONE
    if kind == "judge":
        told = f"{points(estimate['value'])} ({points(estimate['low'])} to {points(estimate['high'])}"
    else:
        told = f"{percent(estimate['value'])} ({interval(estimate['low'], estimate['high'])}"
    spread = estimate["spread"]
    return told + (")" if spread is None else f"; seeds ±{100 * spread:.1f})")


def brief(estimate: Mapping[str, Any] | None, kind: str) -> str:
    """`61.6% ±0.5`, with the standard error over prompts."""
    if estimate is None:
        return NONE
    told = points(estimate["value"]) if kind == "judge" else percent(estimate["value"])
    error = estimate["standard_error"]
    return told if error is None else f"{told} ±{100 * error:.1f}"


def settings(row: Mapping[str, Any]) -> str:
    """What sets a row apart, as `--set` has it."""
    own = ", ".join(f"{key}={value}" for key, value in row["set"].items())
    parts = list(row["soup"])
    if row["weights"]:
        shares = zip(row["soup"], row["weights"], strict=True)
        parts = [f"{weight:.3g} {name}" for name, weight in shares if weight]
    kind = "linear soup of" if row.get("interpolation") == "linear" else "soup of"
    start = f"goes on from {row['start']}" if row.get("start") else ""
    return "; ".join(filter(None, [start, f"{kind} {', '.join(parts)}" if parts else "", own]))


def seeds_of(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """`2 of 3 seeds` where a row lacks some, else nothing."""
    there, all_seeds = len(row["seeds"]), len(results["seeds"])
    return "" if there == all_seeds else f"{there} of {all_seeds} seeds"


def scored(results: Mapping[str, Any]) -> list[str]:
    """The rewards that any row has scores by."""
    return list(dict.fromkeys(reward for row in results["rows"] for reward in row["mean_scores"]))


def at_drift(results: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The measures shown at equal drift."""
    found = results["equal_drift"]
    return [] if found is None else [m for m in results["measures"] if m["name"] in found["measures"]]


def seed_mean(found: Mapping[str, float | None], kind: str) -> str:
    """`61.6% ±0.5`, with the standard deviation between seeds."""
    value, spread = found["value"], found["spread"]
    assert value is not None
    told = points(value) if kind == "judge" else percent(value)
    return told if spread is None else f"{told} ±{100 * spread:.1f}"


def _about(results: Mapping[str, Any]) -> str:
    seeds, command = ", ".join(map(str, results["seeds"])), study_command(results)
    return (
        f"Study `{results['study']}`, recipe `{results['recipe']}`, seeds {seeds}"
        + (f"; made by `{command}`" if command else "")
        + ". Win-rates over the base, each prompt's averaged over the seeds; in brackets the 95% interval "
        "over prompts and the standard deviation between the seeds' own means. All runs together took "
        f"{duration(results['seconds_spent'])}: what they share was made once."
    )


def _win_rates(results: Mapping[str, Any]) -> Iterable[str]:
    measures = results["measures"]
    cost = ["training images", "alone it takes"]
    head = ["row", *(_title(m) for m in measures), "drift", "error growth, chosen", *cost]
    lines = [
        [
            " ".join(filter(None, [row["name"], f"({few})" if (few := seeds_of(row, results)) else ""])),
            *(cell(row["measures"].get(m["name"]), m["kind"]) for m in measures),
            number(row["drift"], 2),
            percent(row["error_growth"]),
            NONE if row["images"] is None else f"{row['images']:,.0f}",
            duration(row["seconds"]),
        ]
        for row in results["rows"]
    ]
    if results["null"]:
        chance = [cell(results["null"].get(m["name"]), m["kind"]) for m in measures]
        lines.append([f"*{NULL}*", *chance, "", "", "", ""])
    yield _grid(head, lines)
    yield (f"{ABOUT_NULL} " if results["null"] else "") + ABOUT_COST


def _comparisons(results: Mapping[str, Any]) -> Iterable[str]:
    yield f"## Compared with {results['against']}"
    compared = contrasts(results)
    if not compared:
        yield nothing_compared(results)
        return
    yield ABOUT_CONTRASTS
    measures = [measure["name"] for measure in results["measures"]]
    lines = [[row, *(_contrast(found.get(name)) for name in measures)] for row, found in compared.items()]
    yield _grid([f"row, less {results['against']}", *map(_title, results["measures"])], lines)
    yield _list(each["sentence"] for each in results["comparisons"][measures[0]])


def _fronts(results: Mapping[str, Any]) -> Iterable[str]:
    measures = {row["name"]: row["measures"] for row in results["rows"]}
    for front in results["fronts"]:
        yield f"## Front `{front['name']}`"
        yield f"{ABOUT_FRONTS} Of all soups and their ends together: {volume(front['hypervolume'])}."
        lines = [
            [
                each["row"],
                *(cell(measures[each["row"]][reward], "training") for reward in front["rewards"]),
                ", ".join(each["dominated_by"]) or NONE,
                volume(each["hypervolume"]) if "hypervolume" in each else "",
            ]
            for each in (*front["points"], *front["others"])
        ]
        yield _grid(["row", *front["rewards"], "dominated by", "hypervolume"], lines)
        yield _list(standing(other, front["name"]) for other in front["others"])


def _equal_drift(results: Mapping[str, Any]) -> Iterable[str]:
    found = results["equal_drift"]
    if found is None:
        return
    yield "## At equal drift"
    yield ABOUT_EQUAL_DRIFT
    measures = at_drift(results)
    for i, drift in enumerate(found["levels"]):
        rows = [
            [row, *(seed_mean(each[m["name"]][i], m["kind"]) for m in measures)]
            for row, each in found["rows"].items()
        ]
        yield _grid([f"at a drift of {number(drift, 2)}", *map(_title, measures)], rows)


def _over_optimization(results: Mapping[str, Any]) -> Iterable[str]:
    head, lines = best_and_last(results["rows"])
    if grid := list(lines):
        yield "## The best step and the last"
        yield (
            "Points over the base on the validation prompts, at the best step and the last: win-rates less "
            "50%, and images found right less the base's; means over seeds, each at its own steps. A seed's "
            "best step is where its win-rate by the training rewards is highest: that it was chosen by them "
            "flatters them there."
        )
        yield _grid(head, grid)


def _judge(results: Mapping[str, Any]) -> Iterable[str]:
    categories = sorted({category for row in results["rows"] for category in row["judge"]})
    if not categories:
        return
    yield "## Images found right, by category"
    lines = [
        [row["name"], *(_change(row["judge"].get(category)) for category in categories)]
        for row in results["rows"]
    ]
    yield _grid(["row", *categories], lines)


def _scores(results: Mapping[str, Any]) -> Iterable[str]:
    rewards = scored(results)
    yield "## Mean scores"
    lines = [[row["name"], *(_scored(row["mean_scores"].get(r)) for r in rewards)] for row in results["rows"]]
    yield _grid(["row", *rewards], lines)


def _settings(results: Mapping[str, Any]) -> Iterable[str]:
    yield "## Settings"
    rows = [[row["name"], settings(row), row["tune"] or ""] for row in results["rows"]]
    yield _grid(["row", "sets", "found how"], rows)
    if results["shared"]:
        yield "All rows: " + ", ".join(f"`{key}={value}`" for key, value in results["shared"].items()) + "."
    trained = [row for row in results["rows"] if not row["soup"] and row["start"] is None]
    commands = [run_command(results["recipe"], _run_settings(results, row)) for row in trained]
    yield f"The runs of seed {results['seeds'][0]}, each by itself:"
    yield "\n".join(["```sh", *commands, "```"])


def _title(measure: Mapping[str, str]) -> str:
    return f"{measure['name']} (held out)" if measure["kind"] == "held out" else measure["name"]


def _contrast(found: Contrast | None) -> str:
    if found is None:
        return NONE
    return f"{f'**{found.value}**' if found.clear else found.value} ({found.details})"


def _scored(found: Mapping[str, float] | None) -> str:
    return NONE if found is None else f"{number(found['base'])} → {number(found['tuned'])}"


def _run_settings(results: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {**results["shared"], **row["set"], "name": row["name"], "seed": results["seeds"][0]}


def _change(found: Mapping[str, float] | None) -> str:
    return NONE if found is None else f"{percent(found['base'])} → {percent(found['tuned'])}"


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in row) + " |" for row in rows)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
