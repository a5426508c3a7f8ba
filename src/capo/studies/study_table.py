"""The results of a study as Markdown, the content of `table.md`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capo.reporting.wording import NONE, duration, number, percent
from capo.studies.commands import run_command, study_command
from capo.studies.contrasts import ABOUT_CONTRASTS, Contrast, contrasts, nothing_compared
from capo.studies.gains import best_and_last
from capo.studies.hypervolume import dominance_sentence, volume_text
from capo.studies.measure_names import COLLAPSE, DOMINATION, measure_title
from capo.studies.study import set_options
from capo.studies.table_cells import (
    ABOUT_COST,
    ABOUT_EQUAL_DRIFT,
    ABOUT_FRONTS,
    ABOUT_JOINT,
    ABOUT_NULL,
    NULL_ROW,
    drift_measures,
    estimate_cell,
    row_settings,
    scored_rewards,
    seed_count,
    seed_mean,
)


def study_table(results: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Return all tables of a study with explanations, after the warnings."""
    parts = [f"# {results['title']}", _about(results)]
    if warnings:
        parts += ["**Warnings**", _list(warnings)]
    parts += [
        *_win_rates(results),
        *_joint(results),
        *_comparisons(results),
        *_fronts(results),
        *_equal_drift(results),
        *_over_optimization(results),
        *_judge(results),
        *_scores(results),
        *_settings(results),
    ]
    return "\n\n".join(parts) + "\n"


def _about(results: Mapping[str, Any]) -> str:
    seeds, command = ", ".join(map(str, results["seeds"])), study_command(results)
    return (
        f"Study `{results['study']}`, recipe `{results['recipe']}`, seeds {seeds}"
        + (f"; made by `{command}`" if command else "")
        + ". Win-rates over the base, averaged over seeds; in parentheses the 95% interval over prompts and "
        "the standard deviation between the means of the seeds. All runs took "
        f"{duration(results['seconds_spent'])} together; artifacts that they share were made once."
    )


def _win_rates(results: Mapping[str, Any]) -> Iterable[str]:
    measures = results["measures"]
    cost = ["training images", "time alone"]
    head = ["row", *map(measure_title, measures), "drift", "error growth, chosen", *cost]
    lines = [
        [
            " ".join(filter(None, [row["name"], f"({few})" if (few := seed_count(row, results)) else ""])),
            *(estimate_cell(row["measures"].get(m["name"]), m["kind"]) for m in measures),
            number(row["drift"], 2),
            percent(row["error_growth"]),
            NONE if row["images"] is None else f"{row['images']:,.0f}",
            duration(row["seconds"]),
        ]
        for row in results["rows"]
    ]
    if results["null"]:
        chance = [estimate_cell(results["null"].get(m["name"]), m["kind"]) for m in measures]
        lines.append([f"*{NULL_ROW}*", *chance, "", "", "", ""])
    yield _grid(head, lines)
    yield (f"{ABOUT_NULL} " if results["null"] else "") + ABOUT_COST


def _joint(results: Mapping[str, Any]) -> Iterable[str]:
    rows = [row for row in results["rows"] if row.get("joint")]
    if not rows:
        return
    yield "## By all rewards at once"
    yield ABOUT_JOINT
    lines = [
        [row["name"], *(estimate_cell(row["joint"][name], "training") for name in (DOMINATION, COLLAPSE))]
        for row in rows
    ]
    yield _grid(["row", "better by all rewards", "worse by all rewards"], lines)


def _comparisons(results: Mapping[str, Any]) -> Iterable[str]:
    yield f"## Compared with {results['against']}"
    compared = contrasts(results)
    if not compared:
        yield nothing_compared(results)
        return
    yield ABOUT_CONTRASTS
    measures = [measure["name"] for measure in results["measures"]]
    lines = [[row, *(_contrast(cells.get(name)) for name in measures)] for row, cells in compared.items()]
    yield _grid([f"row − {results['against']}", *map(measure_title, results["measures"])], lines)
    yield _list(difference["sentence"] for difference in results["comparisons"][measures[0]])


def _fronts(results: Mapping[str, Any]) -> Iterable[str]:
    measures = {row["name"]: row["measures"] for row in results["rows"]}
    for front in results["fronts"]:
        yield f"## Front `{front['name']}`"
        yield f"{ABOUT_FRONTS} All points together: {volume_text(front['hypervolume'])}."
        lines = [
            [
                point["row"],
                *(estimate_cell(measures[point["row"]][reward], "training") for reward in front["rewards"]),
                ", ".join(point["dominated_by"]) or NONE,
                volume_text(point["hypervolume"]) if "hypervolume" in point else "",
            ]
            for point in (*front["points"], *front["others"])
        ]
        yield _grid(["row", *front["rewards"], "dominated by", "hypervolume"], lines)
        yield _list(dominance_sentence(other, front["name"]) for other in front["others"])


def _equal_drift(results: Mapping[str, Any]) -> Iterable[str]:
    equal = results["equal_drift"]
    if equal is None:
        return
    yield "## At equal drift"
    yield ABOUT_EQUAL_DRIFT
    measures = drift_measures(results)
    for i, drift in enumerate(equal["levels"]):
        rows = [
            [row, *(seed_mean(values[m["name"]][i], m["kind"]) for m in measures)]
            for row, values in equal["rows"].items()
        ]
        yield _grid([f"at a drift of {number(drift, 2)}", *map(measure_title, measures)], rows)


def _over_optimization(results: Mapping[str, Any]) -> Iterable[str]:
    head, lines = best_and_last(results["rows"])
    if grid := list(lines):
        yield "## The best step and the last"
        yield (
            "Points over the base on the validation prompts, at the best and at the last step: win-rates "
            "minus 50%, and images judged correct minus the base's; means over seeds at their own steps. The "
            "best step of a seed has the highest win-rate by the training rewards. That choice biases their "
            "value upward at the best step."
        )
        yield _grid(head, grid)


def _judge(results: Mapping[str, Any]) -> Iterable[str]:
    categories = sorted({category for row in results["rows"] for category in row["judge"]})
    if not categories:
        return
    yield "## Images judged correct, by category"
    lines = [
        [row["name"], *(_change(row["judge"].get(category)) for category in categories)]
        for row in results["rows"]
    ]
    yield _grid(["row", *categories], lines)


def _scores(results: Mapping[str, Any]) -> Iterable[str]:
    rewards = scored_rewards(results)
    yield "## Mean scores"
    lines = [[row["name"], *(_scored(row["mean_scores"].get(r)) for r in rewards)] for row in results["rows"]]
    yield _grid(["row", *rewards], lines)


def _settings(results: Mapping[str, Any]) -> Iterable[str]:
    yield "## Settings"
    rows = [[row["name"], row_settings(row), row["tune"] or ""] for row in results["rows"]]
    yield _grid(["row", "settings", "tuning"], rows)
    if results["shared"]:
        yield "All rows: " + ", ".join(f"`{option}`" for option in set_options(results["shared"])) + "."
    trained = [row for row in results["rows"] if not row["soup"] and row["start"] is None]
    commands = [run_command(results["recipe"], _run_settings(results, row)) for row in trained]
    yield f"Commands for the runs of seed {results['seeds'][0]}:"
    yield "\n".join(["```sh", *commands, "```"])


def _contrast(contrast: Contrast | None) -> str:
    if contrast is None:
        return NONE
    return f"{f'**{contrast.value}**' if contrast.clear else contrast.value} ({contrast.details})"


def _scored(means: Mapping[str, float] | None) -> str:
    return NONE if means is None else f"{number(means['base'])} → {number(means['tuned'])}"


def _run_settings(results: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {**results["shared"], **row["set"], "name": row["name"], "seed": results["seeds"][0]}


def _change(shares: Mapping[str, float] | None) -> str:
    return NONE if shares is None else f"{percent(shares['base'])} → {percent(shares['tuned'])}"


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
