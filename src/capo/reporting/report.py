"""Stage `report`: one self-contained page from what the other stages made."""

from collections.abc import Sequence

from capo.recipe import Recipe
from capo.store.step import Job, Step, flatten


def step(recipe: Recipe, before: Sequence[Step]) -> Step:
    """The artifact `report`, made from all artifacts `before` it: the page shows their settings too."""
    read = [each for each in before if each.needed_by is None]
    inputs = {name: value for each in read for name, value in each.inputs.items()}
    inputs |= flatten("report", recipe.report.results()) | {"name": recipe.name}
    return Step("report", "report", inputs, tuple(each.artifact for each in read), write_report)


def write_report(job: Job) -> None:
    """Write `report/index.html` from the committed artifacts of the run."""
    from capo.reporting.gather import gather
    from capo.reporting.page import render

    page = render(gather(job.recipe, job.run)).encode("utf-8")
    job.artifact.write_bytes("index.html", page)
    job.artifact.commit({"bytes": len(page)})
