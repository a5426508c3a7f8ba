"""Render the page of an evaluation: win-rates of one model over another, and the most extreme prompts."""

from collections.abc import Mapping

from capo.reporting.extremes import Extremes
from capo.reporting.results_schema import Results
from capo.reporting.templating import environment, outcome


def render_evaluation(results: Results, extremes: tuple[Extremes, ...], versions: Mapping[str, str]) -> str:
    """Return the page. Equal material gives equal text."""
    return (
        environment()
        .get_template("evaluation.html.j2")
        .render(
            distributions=[],
            warnings=results.warnings,
            extremes=extremes,
            versions=versions,
            **outcome(results),
        )
    )
