"""The documentation site: its generated pages are complete and its navigation leads to pages."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import capo
from capo.cli import app
from capo.recipe import Recipe

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/site/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config():
    class Loader(yaml.SafeLoader):
        """Reads the tags of Python objects as None."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def pages(nav):
    for entry in nav:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_navigation_once(config, reference):
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    study = r"evidence/(.+/)?(?!index|performance|recipes)[^/]+\.md"
    study_tables = {name for name in documents if re.fullmatch(study, name)}
    assert sorted(pages(config["nav"])) == sorted(
        (documents - study_tables) | set(reference.generated_pages())
    )


def test_site_loads_nothing_from_other_hosts(config):
    assert config["theme"]["font"] is False
    assert not {"extra_javascript", "repo_url"} & set(config)
    styles = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in config["extra_css"]]
    assert not any(loading in style for style in styles for loading in ("@import", "url(", "://"))


def test_command_reference_has_every_command_and_option(reference):
    page = reference.cli_page()
    assert all(char == "\n" or char.isprintable() for char in page)
    _, *subcommands = reference.commands(get_command(app), ("capo",))
    assert len(subcommands) > len(get_command(app).commands)
    for path, command in subcommands:
        name = re.escape(" ".join(path))
        (section,) = re.findall(rf"^#+ {name}\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE)
        options = [option for option in command.params if option.param_type_name == "option"]
        assert all(option.opts[-1] in section for option in options), name


def test_recipe_reference_is_generated_from_the_code(reference):
    """`python docs/site/reference.py` updates the page."""
    page = (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8")
    assert reference.recipe_page(page) == page
    for name, field in Recipe.model_fields.items():
        for section in reference._sections(field.annotation):
            text = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
            assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(section.model_fields)


def test_every_field_of_the_recipe_has_a_description(reference):
    assert not [
        line for table in reference.recipe_tables().values() for line in table.splitlines() if "|  |" in line
    ]


def test_api_reference_has_every_public_name(reference):
    headings = re.findall(r"heading: capo\.(\w+)", reference.api_page())
    assert sorted(headings) == sorted(capo.__all__)
