"""Fill docs/evidence/index.md with the results of studies, and copy their tables and figures beside it.

    python benchmarks/evidence.py [STUDIES]

Reads `STUDIES/*/results.json` as `capo compare` writes them; STUDIES is `studies` by default. Rewrites the
table in every block `<!-- study: NAME -->` of the page. Copies the study's `table.md` to
docs/evidence/NAME.md, every figure that the page uses to docs/evidence/NAME-FIGURE.svg, and to
docs/evidence/NAME what `capo compare` needs to go on from there: the records of its runs, `ROW/seed-S.json`,
unless another study has the same record. If some seeds have not been run at all, the table says so. A study
with unfinished rows is reported, and its block stays as it is.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from capo.reporting.wording import NONE
from capo.store.claim import MARKER
from capo.studies.contrasts import contrasts
from capo.studies.record_file import read_record
from capo.studies.run_records import records_elsewhere

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
PAGE = EVIDENCE / "index.md"
IMAGE = re.compile(r"\((?P<file>[\w-]+\.svg)\)")
BLOCK = re.compile(r"(<!-- study: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NULL = "*base against itself*"

# The paper's win-rates over the base in %, by row of the study: MPS, VQAScore, VILA. For noise prediction
# they are SDXL's (Tables 1a, 2a, 5), for a flow SD3-M's (Tables 1b, 2b, 6).
SDXL_SINGLE = {
    "dpo-preference": "58.5, 49.3, 61.7",
    "dpo-alignment": "53.1, 50.6, 55.9",
    "dpo-aesthetic": "52.6, 46.4, 81.8",
    "ipo-preference": "56.8, 50.1, 64.1",
    "ipo-alignment": "53.1, 51.9, 53.8",
    "ipo-aesthetic": "53.3, 48.5, 76.1",
    "capo-preference": "61.1, 49.7, 64.9",
    "capo-alignment": "55.5, 53.2, 58.7",
    "capo-aesthetic": "54.1, 49.6, 83.1",
}
SD3_SINGLE = {
    "dpo-preference": "55.2, 53.2, 54.4",
    "dpo-alignment": "52.1, 53.2, 52.9",
    "dpo-aesthetic": "53.1, 48.7, 70.1",
    "ipo-preference": "51.1, 52.1, 48.3",
    "ipo-alignment": "52.8, 51.9, 51.1",
    "ipo-aesthetic": "58.3, 50.2, 70.8",
    "capo-preference": "58.1, 53.3, 63.4",
    "capo-alignment": "54.4, 55.4, 59.4",
    "capo-aesthetic": "57.4, 50.8, 74.0",
}
PAPER = {
    "table1": SDXL_SINGLE,
    "table1-flow": SD3_SINGLE,
    "table2": SDXL_SINGLE
    | {
        "dpo-sum": "57.2, 52.1, 71.9",
        "dpo-soup": "56.5, 52.2, 74.3",
        "dpo-frs": "58.1, 52.9, 78.6",
        "ipo-sum": "57.4, 51.1, 66.8",
        "ipo-soup": "55.4, 52.0, 70.3",
        "ipo-frs": "57.8, 52.0, 74.4",
        "capo-sum": "61.2, 52.5, 75.0",
        "capo-soup": "59.4, 52.8, 77.6",
        "capo-frs": "61.2, 54.6, 79.2",
    },
    "table2-flow": SD3_SINGLE
    | {
        "dpo-sum": "55.3, 52.8, 55.0",
        "dpo-soup": "56.1, 54.7, 63.4",
        "dpo-frs": "56.7, 53.2, 68.7",
        "ipo-sum": "54.1, 53.9, 58.9",
        "ipo-soup": "55.6, 53.5, 60.4",
        "ipo-frs": "55.5, 54.6, 64.7",
        "capo-sum": "57.8, 54.3, 57.0",
        "capo-soup": "59.4, 54.9, 67.6",
        "capo-frs": "59.0, 55.7, 69.3",
    },
    "table5": {
        "constant": "56.5, 51.8, 70.8",
        "b1.0": "59.1, 54.5, 73.3",
        "b1.5": "61.2, 54.6, 79.2",
        "b2.0": "58.6, 52.6, 75.2",
    },
    "table6": {
        "constant": "54.9, 53.6, 55.7",
        "b0": "57.0, 53.9, 66.9",
        "b-1": "59.0, 55.7, 69.3",
    },
}


def main(studies: Path) -> None:
    """Fill in the blocks of all finished studies."""
    page = PAGE.read_text(encoding="utf-8")
    images = {image["file"] for image in IMAGE.finditer(page)}
    for name in [block["name"] for block in BLOCK.finditer(page)]:
        results = _complete_results(studies / name)
        if results is None:
            continue
        table = "\n".join(short_table(results, PAPER.get(name, {})))
        page = filled(page, name, table)
        (EVIDENCE / f"{name}.md").write_bytes((studies / name / "table.md").read_bytes())
        elsewhere = records_elsewhere(EVIDENCE / name)
        for record in sorted((studies / name).glob("*/seed-*.json")):
            kept = EVIDENCE / record.relative_to(studies)
            if read_record(record)["made_from"] in elsewhere and not kept.exists():
                continue
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(record.read_bytes())
        if (EVIDENCE / name).is_dir():
            for file in (MARKER, "study.yaml"):
                (EVIDENCE / name / file).write_bytes((studies / name / file).read_bytes())
        for figure in sorted((studies / name / "figures").iterdir()):
            if (copy := f"{name}-{figure.name}") in images:
                (EVIDENCE / copy).write_bytes(figure.read_bytes())
    PAGE.write_text(page, encoding="utf-8")


def filled(page: str, name: str, table: str) -> str:
    """Return the page with `table` in the block of study `name`."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{table}\n{match[3]}" if match["name"] == name else match[0]

    return BLOCK.sub(block, page)


def short_table(results: Mapping[str, Any], paper: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a Markdown table, with values such as `66.4 ±0.6` (standard error over prompts).

    Values that differ from the reference row by more than chance are bold.
    """
    measures = results["measures"]
    head = ["row", *(["the paper: MPS, VQA, VILA"] if paper else []), *map(_title, measures)]
    yield _line(head)
    yield _line(["---", *(["---"] if paper else []), *["--:"] * len(measures)])
    compared = contrasts(results)
    for row in results["rows"]:
        differences = compared.get(row["name"], {})
        cells = [_cell(row["measures"].get(m["name"]), m, differences.get(m["name"])) for m in measures]
        mark = f"`{row['name']}`" + (" (baseline)" if row["name"] == results["against"] else "")
        yield _line([mark, *([paper.get(row["name"], NONE)] if paper else []), *cells])
    chance = [_cell(results["null"][m["name"]], m, None) for m in measures]
    yield _line([NULL, *([""] if paper else []), *chance])
    if left := _seeds_left(results):
        yield from ("", f"Seeds: {_listed(results['seeds'])}. Not run yet: {_listed(left)}.")


def _complete_results(folder: Path) -> dict[str, Any] | None:
    path = folder / "results.json"
    if not path.is_file():
        print(f"{folder.name}: {path} does not exist", file=sys.stderr)
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results["failed"] or _seeds_left(results) & set(results["seeds"]):
        print(f"{folder.name}: not finished, skipped", file=sys.stderr)
        return None
    return results


def _seeds_left(results: Mapping[str, Any]) -> set[int]:
    return {run["seed"] for run in results["unfinished"]}


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _title(measure: Mapping[str, str]) -> str:
    short = {"mean": "mean of three", "judge": "judge, points"}
    held_out = f"{measure['name']} (held out)" if measure["kind"] == "held out" else measure["name"]
    return short.get(measure["kind"], held_out)


def _cell(estimate: Mapping[str, Any] | None, measure: Mapping[str, str], contrast: Any) -> str:
    if estimate is None:
        return NONE
    sign = "+" if measure["kind"] == "judge" else ""
    value = f"{100 * estimate['value']:{sign}.1f}".replace("-", "−")
    value = f"**{value}**" if contrast is not None and contrast.clear else value
    return f"{value} ±{100 * estimate['standard_error']:.1f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path("studies"))
