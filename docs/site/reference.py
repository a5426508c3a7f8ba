"""mkdocs hook: adds the reference pages that are generated from the code, and the changelog.

`mkdocs.yml` names this file under `hooks`. The pages exist only in the built site. Run as a script, the file
updates the tables of fields in `docs/reference/recipe.md`.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from typer.main import get_command

import capo
from capo.cli import app
from capo.recipe import RUNTIME, Recipe

ROOT = Path(__file__).parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the files of the site."""
    from mkdocs.structure.files import File

    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def generated_pages() -> dict[str, str]:
    """The text of every generated page by its path in the documentation."""
    return {
        "reference/cli.md": cli_page(),
        "reference/api.md": api_page(),
        "development/changes.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def cli_page() -> str:
    """One section per command: usage, help, arguments, options, examples."""
    lines = ["# Command line", "", "Generated from the `capo` command. Exit codes: 0 success, 1 failure,"]
    lines += ["2 wrong usage or recipe, 130 interrupted.", ""]
    for path, command in commands(get_command(app), ("capo",)):
        lines += _command(path, command)
    return "\n".join(lines)


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The command and all its subcommands, depth first, with the words that call them."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def _command(path: tuple[str, ...], command: Any) -> Iterator[str]:
    name = " ".join(path)
    context = typer.Context(command, info_name=name)
    if len(path) > 1:
        yield from (f"{'#' * len(path)} {name}", "")
    yield from ("```text", " ".join(command.get_usage(context).removeprefix("Usage: ").split()), "```", "")
    yield from (_plain(command.help or ""), "")
    records = [record for each in command.params if (record := each.get_help_record(context))]
    if records:
        yield from ("| argument or option | |", "|---|---|")
        yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records)
        yield ""
    if command.epilog:
        yield from ("```text", _plain(command.epilog), "```", "")


def _plain(text: str) -> str:
    """Return help text without the character that keeps its line breaks in a terminal."""
    return inspect.cleandoc(text.replace("\b", ""))


def recipe_page(text: str) -> str:
    """`docs/reference/recipe.md` with the table under every heading made again from the code."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    tables = recipe_tables()
    headings = [re.match(r"## (\w+)$", part, re.MULTILINE) for part in parts]
    names = [heading[1] if heading else "" for heading in headings]
    if names != list(tables):
        raise ValueError(f"the headings of the page must be {', '.join(tables)}")
    table = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
    return "".join(
        table.sub(lambda _, n=name: tables[n], part, count=1) for name, part in zip(names, parts, strict=True)
    )


def recipe_tables() -> dict[str, str]:
    """The table of fields of every section; the recipe's own fields are under the empty name."""
    sections = {name: _sections(field.annotation) for name, field in Recipe.model_fields.items()}
    tables = {"": _table(Recipe, [name for name, found in sections.items() if not found])}
    for name, found in sections.items():
        for section in found:
            tables[name] = _table(section, list(section.model_fields))
    return tables


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field of the recipe holds: alone, optional, or in a tuple."""
    kinds = [annotation, *(kind for arg in get_args(annotation) for kind in (arg, *get_args(arg)))]
    return [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)]


def _table(section: type[BaseModel], names: list[str]) -> str:
    schema = section.model_json_schema()
    required = schema.get("required", ())
    lines = ["| field | type | default | description |", "|---|---|---|---|"]
    for name in names:
        field = schema["properties"][name]
        default = "required" if name in required else f"`{json.dumps(field.get('default'))}`"
        runtime = RUNTIME in section.model_fields[name].metadata
        text = field.get("description", "") + (" *Speed only.*" if runtime else "")
        lines.append(f"| `{name}` | {_cell(_kind(field))} | {_cell(default)} | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _kind(field: dict[str, Any]) -> str:
    """The type and range of a field from its JSON schema: `integer > 0`, `"lora" or "full"`."""
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "$ref" in field:
        return f"section {field['$ref'].rpartition('/')[2]}"
    if "enum" in field or "const" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    kind = str(field.get("type", "any"))
    if kind == "array" and isinstance(field.get("items"), dict):
        kind = f"list of {_kind(field['items'])}"
    limits = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    return " ".join([kind, *(f"{sign} {field[key]:g}" for key, sign in limits.items() if key in field)])


def api_page() -> str:
    """Every public name of `capo`, with its docstring, under the module that holds it."""
    lines = ["# Python API", "", "Everything that `capo` exports. Other names may change without notice.", ""]
    by_module: dict[str, list[str]] = {}
    for name in sorted(capo.__all__):
        by_module.setdefault(getattr(capo, name).__module__, []).append(name)
    for module, names in sorted(by_module.items()):
        lines += [f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}", ""]
        for name in names:
            path = f"{module}.{getattr(capo, name).__qualname__}"
            lines += [f"::: {path}", "    options:", f"      heading: capo.{name}", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """`text` in one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    page = ROOT / "docs/reference/recipe.md"
    page.write_text(recipe_page(page.read_text(encoding="utf-8")), encoding="utf-8")
