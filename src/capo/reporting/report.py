"""The report stage: one self-contained page from what the other stages left."""

from capo.recipe import Recipe
from capo.store.run_directory import Artifact, Run


def report(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Write `report/index.html` from the committed artifacts of `run` and commit it."""
    from capo.reporting.gather import gather
    from capo.reporting.page import render

    page = render(gather(recipe, run)).encode("utf-8")
    artifact.write_bytes("index.html", page)
    artifact.commit({"bytes": len(page)})
