"""A study's results as Markdown: what `table.md` holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capo.compare.hypervolume import standing, volume
from capo.compare.overoptimization import best_and_last
from capo.reporting.wording import NONE, duration, interval, number, percent, points

NULL = "base against itself"

ABOUT_FRONTS = (
    "Soups of policies, from one to the other. A row dominates another when its win-rate is nowhere lower "
    "and somewhere higher by the training rewards. The hypervolume is the share of the room between 50% and "
    "100% by every reward that rows dominate, with its 95% bootstrap interval over prompts; a row below 50% "
    "by any reward dominates nothing. More points cover more, also by chance."
)


def table(results: Mapping[str, Any]) -> str:
    """All tables of a study, each with what its numbers are."""
    parts = [f"# {results['title']}", _about(results), *_win_rates(results), *_comparisons(results)]
    parts += [
        *_fronts(results),
        *_equal_drift(results),
        *_over_optimization(results),
        *_judge(results),
        *_scores(results),
        *_settings(results),
    ]
    if results["failed"]:
        parts += ["## Failed", _list(f"{name}: {why}" for name, why in results["failed"].items())]
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
    start = f"goes on from {row['start']}" if row.get("start") else ""
    return "; ".join(filter(None, [start, f"soup of {', '.join(parts)}" if parts else "", own]))


def _about(results: Mapping[str, Any]) -> str:
    quick = " **Quick form: it shows that everything runs; its numbers mean nothing.**" * results["quick"]
    seeds = ", ".join(map(str, results["seeds"]))
    return (
        f"Study `{results['study']}`, recipe `{results['recipe']}`, seeds {seeds}. Win-rates over the base, "
        "each prompt's averaged over the seeds; in brackets the 95% interval over prompts and the standard "
        f"deviation between the seeds' own means. {duration(results['seconds_spent'])} of work.{quick}"
    )


def _win_rates(results: Mapping[str, Any]) -> Iterable[str]:
    measures = results["measures"]
    cost = ["training images", "alone it takes"]
    head = ["row", *(_title(m) for m in measures), "drift", "error growth, chosen", *cost]
    lines = [
        [
            row["name"],
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
    yield (
        "Drift: mean squared difference of the policy's and the base's predictions on training pairs, at the "
        "step that was kept; error growth: of the denoising error on chosen samples over the base's."
    )


def _comparisons(results: Mapping[str, Any]) -> Iterable[str]:
    told = [each["sentence"] for found in results["comparisons"].values() for each in found]
    if told:
        yield f"## Compared with {results['against']}"
        yield (
            "Differences on the same prompts and the same noise, averaged over seeds: 95% bootstrap "
            "intervals over prompts; p-values by flipping signs of prompts, corrected for the number of rows "
            "(Holm). They are about other prompts; what another training seed would do, the signs of the "
            "seeds hint at."
        )
        yield _list(told)


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
    head = ["row", *(f"drift {number(level, 2)}" for level in found["levels"])]
    lines = [
        [row, *(_level(each) for each in by_measure[found["headline"]])]
        for row, by_measure in found["rows"].items()
    ]
    yield "## At equal drift"
    yield (
        f"{found['headline']}: win-rate on the validation prompts by the time a row has drifted as far; ± is "
        "the standard deviation between seeds. The last column is the largest drift that all runs reach."
    )
    yield _grid(head, lines)


def _over_optimization(results: Mapping[str, Any]) -> Iterable[str]:
    head, lines = best_and_last(results["rows"])
    if grid := list(lines):
        yield "## The best step and the last"
        yield (
            "Points over the base on the validation prompts, at the best step and the last: win-rates less "
            "50%, and images found right less the base's. The best step, that of each seed, is where the "
            "win-rate by the training rewards is highest."
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
    rewards = list(results["rows"][0]["mean_scores"])
    yield "## Mean scores"
    lines = [
        [
            row["name"],
            *(
                f"{number(row['mean_scores'][r]['base'])} → {number(row['mean_scores'][r]['tuned'])}"
                for r in rewards
            ),
        ]
        for row in results["rows"]
    ]
    yield _grid(["row", *rewards], lines)


def _settings(results: Mapping[str, Any]) -> Iterable[str]:
    yield "## Settings"
    rows = [[row["name"], settings(row), row["tune"] or ""] for row in results["rows"]]
    yield _grid(["row", "sets", "found how"], rows)
    if results["shared"]:
        yield "All rows: " + ", ".join(f"`{key}={value}`" for key, value in results["shared"].items()) + "."


def _title(measure: Mapping[str, str]) -> str:
    return f"{measure['name']} (held out)" if measure["kind"] == "held out" else measure["name"]


def _level(found: Mapping[str, float | None]) -> str:
    spread = found["spread"]
    return percent(found["value"]) + ("" if spread is None else f" ±{100 * spread:.1f}")


def _change(found: Mapping[str, float] | None) -> str:
    return NONE if found is None else f"{percent(found['base'])} → {percent(found['tuned'])}"


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in row) + " |" for row in rows)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
