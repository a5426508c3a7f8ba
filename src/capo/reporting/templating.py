"""The templates of all pages: strict, and escaping whatever is put into them."""

from typing import Any

import jinja2

from capo.reporting import forest, wording
from capo.reporting.results_schema import Results


def environment() -> jinja2.Environment:
    """Templates of this package; a page extends `frame.html.j2`, which lets it run and load nothing."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("capo.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        wording.percent, wording.interval, wording.points, wording.number, wording.duration, wording.size,
        wording.count, wording.excerpt, wording.signed, wording.p_value,
    )  # fmt: skip
    found.filters |= {f.__name__: f for f in filters}
    return found


def outcome(results: Results) -> dict[str, Any]:
    """What `results.html.j2` and `judge.html.j2` draw, and the verdict above them."""
    return {
        "results": results,
        "verdict": wording.verdict(results),
        "forest": forest.win_rates(results),
        "forest_keys": forest.keys(results),
        "judged": forest.judged(results.judge, results.prompts) if results.judge else None,
    }
