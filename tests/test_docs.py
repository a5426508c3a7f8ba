"""The pages agree with the code, the files and each other: links, commands, tables, numbers."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import capo
from capo.cli import app
from capo.pipeline.graph import steps_of
from capo.recipe import load_recipe
from capo.shapes.checkpoint_paths import CHECKPOINTS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PAGES_BY_NAME = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


def rows(text):
    """Return the cells of all table rows in a text, without the header rules."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines if not line.startswith("---")]


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES_BY_NAME)
def test_links_have_targets(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES_BY_NAME[name]):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / name).parent / place if place else ROOT / name
        assert path.exists(), target
        if name.startswith("docs/"):  # the site has no other pages
            assert path.resolve().is_relative_to(ROOT / "docs"), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", PAGES_BY_NAME)
def test_named_commands_and_tests_exist(name):
    text = PAGES_BY_NAME[name]
    known = set(get_command(app).commands)
    scripts = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for command in re.findall(r"`capo ([a-z]+)", text) + re.findall(r"^capo ([a-z]+)", scripts, re.MULTILINE):
        assert command in known
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test


def documented_name(artifact):
    return re.sub("^benchmarks/[^/]+", "benchmarks/NAME", re.sub("^scores/.*", "scores/REWARD", artifact))


def test_inputs_of_artifacts_are_as_documented():
    _, text = PAGES_BY_NAME["docs/reference/run-directory.md"].split("## What makes an artifact stale")
    table = {row[0].strip("`"): row[1:] for row in rows(text.partition("\n## ")[0])[1:]}
    for step in steps_of(load_recipe("shapes", ["benchmarks.0.export=official"])):
        fields, upstream = (table[documented_name(step.artifact)] + [""])[:2]
        documented = set(re.findall(r"`([\w/]+)`", fields))
        if step.artifact == "report":
            assert documented == {"name", "report"}
            continue
        assert documented == {field.partition(".")[0] for field in step.inputs}, step.artifact
        upstream_artifacts = set(map(documented_name, step.upstream))
        assert set(re.findall(r"`([\w/]+)`", upstream)) == upstream_artifacts, step.artifact


def test_parts_of_the_embedded_world_are_as_documented():
    origin = json.loads((CHECKPOINTS / "origin.json").read_text(encoding="utf-8"))
    folders = {part: CHECKPOINTS / part for part in origin} | {"vae": CHECKPOINTS / "base" / "vae"}
    sizes = {
        part: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for part, folder in folders.items()
    }
    sizes["base"] -= sizes["vae"]
    page = PAGES_BY_NAME["docs/concepts/embedded-world.md"]
    documented = rows(page.partition("## How the checkpoints were made")[2])[1:]
    expected = {(f"`{p}`", str(origin[p]["seconds"]), f"{sizes[p] / 1e6:.1f} MB") for p in origin}
    assert set(map(tuple, documented)) == expected


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == capo.__version__
    assert f"## {capo.__version__}" in PAGES_BY_NAME["CHANGELOG.md"]


EVIDENCE = [
    (page, study)
    for page in ("docs/evidence/index.md", "docs/evidence/version-0.1/index.md")
    for study in re.findall(r"<!-- study: (\S+) -->", PAGES_BY_NAME[page])
]


@pytest.mark.parametrize(("page", "study"), EVIDENCE)
def test_evidence_has_the_numbers_of_the_study_tables(page, study):
    block = re.search(rf"<!-- study: {study} -->\n(.*?)<!-- end -->", PAGES_BY_NAME[page], re.DOTALL)[1]
    verbatim = (ROOT / page).with_name(f"{study}.md").read_text(encoding="utf-8")
    wins = rows(verbatim.partition("\n## ")[0])
    own = {cells[0]: cells[1:] for cells in wins}
    head, *lines = rows(block)
    first = head.index("mean of three")
    assert [line[0].split(" (")[0].strip("`") for line in lines] == [cells[0] for cells in wins[1:]]
    for name, *cells in lines:
        for cell, whole in zip(cells[first - 1 :], own[name.split(" (")[0].strip("`")], strict=False):
            value = cell.split(" ±")[0].strip("*").replace("-", "−")
            assert whole.replace("%", "").startswith(value), (study, name)
