"""What an attack tried, and what held: printed as a table and written as JSON."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Try:
    """One try of a case: `problem` is empty if the system held, else what went wrong."""

    case: str
    what: str
    problem: str = ""
    outcome: str = ""
    """How it held, such as "rejected" or "equal"."""


def _reported(one: Try) -> Try:
    """Print a failure when it happens, as a theme can take long."""
    if one.problem:
        print(f"failed: {one.case}, {one.what}: {one.problem}", file=sys.stderr, flush=True)
    return one


def show(theme: str, tries: Iterable[Try], results: Path | None = None) -> int:
    """Print the table of a theme and write `results/THEME.json`; return an exit code: 1 if any try failed."""
    tries = list(map(_reported, tries))
    failed = [one for one in tries if one.problem]
    print(f"\n| {theme} | tried | held | failed |\n|---|--:|--:|--:|")
    for case in dict.fromkeys(one.case for one in tries):
        mine = [one for one in tries if one.case == case]
        wrong = sum(bool(one.problem) for one in mine)
        outcomes = Counter(one.outcome for one in mine if not one.problem and one.outcome)
        how = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        held = f"{len(mine) - wrong} ({how})" if how else str(len(mine) - wrong)
        print(f"| {case} | {len(mine)} | {held} | {wrong} |")
    print(f"| all | {len(tries)} | {len(tries) - len(failed)} | {len(failed)} |")
    for one in failed:
        print(f"\nFAILED {one.case}, {one.what}: {one.problem}")
    if results is not None:
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{theme}.json").write_text(json.dumps([asdict(one) for one in tries], indent=1) + "\n")
    return int(bool(failed))
