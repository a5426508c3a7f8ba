"""Write the report of a human study: numbers for programs, a table in the paper's layout, and a page.

report/index.html       the page, with the pairs on which raters agree most and least
report/results.json     everything the page shows
report/table.md         the layout of the paper's Table 7
report/pairs.csv        one row per pair and question
report/votes.csv        one row per vote, with the models' names; catch trials too
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from capo.people.analysis import analyze
from capo.people.human_study import BASE, HumanStudy, Key, check_study_images, read_key, read_study
from capo.people.screening import screen
from capo.people.votes import VoteLine, collected_votes
from capo.people.votes_page import render_votes
from capo.reporting.csv_cells import inert_cell
from capo.store import atomic
from capo.store.manifest import pretty

REPORT = "report"


def write_votes_report(folder: Path) -> dict[str, Any]:
    """Write `report/` of the study in `folder` from all its votes, and return the results.

    Equal votes give equal files. Raises `HumanStudyError` if the study or an image is damaged, and
    `VotesError` if a votes file is, or if no votes count.
    """
    study = read_study(folder)
    key = read_key(folder, study)
    check_study_images(folder, study)
    votes = collected_votes(folder, study)
    results = analyze(study, key, votes)
    page = render_votes(results, study, key, folder)
    with atomic.write_folder(folder / REPORT) as place:
        _write(place / "results.json", pretty(results))
        _write(place / "table.md", table(results))
        _write(place / "pairs.csv", _csv(results["pairs"]))
        _write(place / "votes.csv", _csv(_vote_rows(study, key, votes)))
        _write(place / "index.html", page)
    return results


def table(results: Mapping[str, Any]) -> str:
    """Return the win-rates in the layout of the paper's Table 7, with intervals below, as Markdown.

    Three columns per comparison: the model's share of votes, the base's, and the difference in percentage
    points. A tie counts half. There is one table per question.
    """
    names = results["models"]
    blocks = []
    for question in results["questions"]:
        rows = [each for each in results["comparisons"] if each["question"] == question["name"]]
        if not rows:
            continue
        head, shares, intervals = [], [], []
        for row in rows:
            rate = row["win_rate"]
            head += [names[row["model"]], names[BASE], "Improvement"]
            shares += [
                _percent(rate["value"]),
                _percent(1 - rate["value"]),
                f"{200 * rate['value'] - 100:+.1f}",
            ]
            intervals += [
                f"{_percent(rate['low'])} to {_percent(rate['high'])}",
                f"{_percent(1 - rate['high'])} to {_percent(1 - rate['low'])}",
                f"{200 * rate['low'] - 100:+.1f} to {200 * rate['high'] - 100:+.1f}",
            ]
        lines = [head, ["---"] * len(head), shares, intervals]
        title = "" if len(results["questions"]) == 1 else f"{question['text']}\n\n"
        blocks.append(title + "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _vote_rows(study: HumanStudy, key: Key, votes: Sequence[VoteLine]) -> Iterable[dict[str, Any]]:
    aside = {rater.rater for rater in screen(votes, key, study.tie) if rater.set_aside}
    prompts = {pair.pair: pair.prompt for pair in study.pairs}
    for vote in votes:
        about = key.pairs[vote.pair]
        chosen = {"left": about.left, "right": about.right}.get(vote.side)
        yield {
            "rater": vote.rater,
            "source": vote.source,
            "pair": vote.pair,
            "question": vote.question,
            "prompt_id": about.prompt_id,
            "prompt": prompts[vote.pair],
            "category": about.category,
            "catch": about.catch,
            "left": key.models[about.left].name,
            "right": key.models[about.right].name,
            "chosen": "tie" if chosen is None else key.models[chosen].name,
            "screen_side": vote.choice,
            "seconds": None if vote.ms is None else vote.ms / 1000,
            "at": vote.at,
            "counted": about.catch is None and vote.rater not in aside,
        }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: inert_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
