"""Stage `report`: one self-contained page about the run."""

from collections.abc import Sequence

from capo.recipe import Recipe
from capo.store.step import Job, Step, flatten


def step(recipe: Recipe, before: Sequence[Step]) -> Step:
    """Return the step of the artifact `report`.

    The page shows the settings of all artifacts `before` it, so their inputs are inputs of the report, too.
    """
    upstream = [step for step in before if step.needed_by is None]
    inputs = {name: value for step in upstream for name, value in step.inputs.items()}
    inputs |= flatten("report", recipe.report.results()) | {"name": recipe.name}
    return Step("report", "report", inputs, tuple(step.artifact for step in upstream), write_report)


def write_report(job: Job) -> None:
    """Write `report/index.html` from the committed artifacts of the run."""
    from capo.reporting.gather import gather
    from capo.reporting.report_page import render

    page = render(gather(job.recipe, job.run)).encode("utf-8")
    job.artifact.write_bytes("index.html", page)
    job.artifact.commit({"bytes": len(page)})
