"""The templates of all pages. They escape every value and fail on undefined names."""

import functools
from typing import Any

import jinja2

from capo.reporting import forest, wording
from capo.reporting.results_schema import Results


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of the templates, one for the process: compiling them takes most of the time.

    All pages extend `frame.html.j2`, whose policy forbids scripts and remote resources.
    """
    templates = jinja2.Environment(
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
    templates.filters |= {f.__name__: f for f in filters}
    return templates


def outcome(results: Results) -> dict[str, Any]:
    """Return the variables of `results.html.j2` and `judge.html.j2`, and the verdict."""
    return {
        "results": results,
        "verdict": wording.verdict(results),
        "forest": forest.win_rates(results),
        "forest_keys": forest.keys(results),
        "judged": forest.judged(results.judge, results.prompts) if results.judge else None,
    }
