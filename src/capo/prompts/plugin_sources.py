"""Prompts that an installed package makes, as a recipe's source `KIND:NAME`.

The package supplies a function as an entry point of the group `capo.prompts`; KIND is the name of the
entry point.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from capo.prompts.rows import PromptRequest, SourceRow
from capo.prompts.text_rules import PromptsError
from capo.recipe.plugins import PROMPT_SOURCES, load_plugin

PromptRow = tuple[str, str | None, dict[str, Any]]
"""Text, category, and metadata as JSON values."""


class PromptSource(Protocol):
    """The interface of a source of prompts."""

    def __call__(self, name: str, count: int | None, seed: int) -> Iterable[PromptRow]:
        """Return `count` distinct prompts of the set `name`, drawn by `seed`; all of them if None.

        Raises `ValueError` for an unknown set, and if it has too few prompts.
        """
        ...


def read_plugin(kind: str, name: str, request: PromptRequest, seed: int) -> Iterator[SourceRow]:
    """Yield the rows of `kind:name`.

    Raises `PromptsError` for anything that the source rejects.
    """
    source: PromptSource = load_plugin(PROMPT_SOURCES, kind, f"{request.field}.source")
    try:
        rows = list(source(name, request.section.count, seed))
    except ValueError as error:
        raise PromptsError(f"{request.field}.source: {request.section.source}: {error}") from error
    for number, (text, category, metadata) in enumerate(rows):
        yield SourceRow(text.strip(), category, metadata, f"{request.section.source}, prompt {number}")
