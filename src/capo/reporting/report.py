"""The report stage: one self-contained page from what the other stages left."""

from capo.recipe import Recipe
from capo.store.run_directory import Artefact, Run


def report(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Write `report/index.html` from the committed artefacts of `run` and commit it."""
    from capo.reporting.gather import gather
    from capo.reporting.page import render

    page = render(gather(recipe, run)).encode("utf-8")
    artefact.write_bytes("index.html", page)
    artefact.commit({"bytes": len(page)})
