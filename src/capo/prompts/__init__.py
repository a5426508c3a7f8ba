"""Where prompts come from: the embedded world's grammar, or a file.

load_prompts(PromptsSection(source="shapes:train", count=192), seed=0)
load_prompts(PromptsSection(source="my-prompts.txt"), seed=0)
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo.prompts.files import PromptsError, read_file
from capo.recipe import PromptsSection
from capo.seeds import stable_seed

__all__ = [
    "Prompt",
    "PromptsError",
    "distinct",
    "load_prompts",
    "make_prompt",
    "read_source",
    "source_identity",
]

SHAPES_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Prompt:
    """One prompt: what the models see (`text`), and what is known about it.

    `prompt_id` is its address in every artefact: 16 hex digits, a digest of the text. `category`
    groups results; `metadata` holds JSON values for judges.
    """

    prompt_id: str
    text: str
    category: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def make_prompt(text: str, category: str | None = None, metadata: dict[str, Any] | None = None) -> Prompt:
    """A prompt with the `prompt_id` of its text."""
    prompt_id = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Prompt(prompt_id, text, category, metadata or {})


def load_prompts(section: PromptsSection, seed: int) -> list[Prompt]:
    """The prompts that `section` names, each text once, in the order of their source.

    Texts are the same when they are equal letter by letter, but for blanks around them. `count`
    of a file's prompts are drawn by `seed`; which ones depends on the texts, not on their order.
    Raises `PromptsError` naming the file and line that cannot be used.
    """
    return distinct(read_source(section, seed))


def read_source(section: PromptsSection, seed: int) -> list[Prompt]:
    """As `load_prompts`, with duplicates still there."""
    kind, _, split = section.source.partition(":")
    if kind == "shapes":
        return _read_shapes(split, section.count, seed)
    rows = read_file(Path(section.source))
    prompts = [make_prompt(row.text, row.category, row.metadata) for row in rows]
    return prompts if section.count is None else _draw(prompts, section, seed)


def distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first prompt of every text."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.text, prompt)
    return list(first.values())


def source_identity(section: PromptsSection) -> str | None:
    """A digest of what the source holds, None for the grammar, which comes with the package."""
    if section.source.startswith("shapes:"):
        return None
    path = Path(section.source)
    if not path.is_file():
        raise PromptsError(f"{path}: no such prompt file; prompts.source is a file or shapes:SPLIT")
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _read_shapes(split: str, count: int | None, seed: int) -> list[Prompt]:
    if split not in SHAPES_SPLITS:
        known = ", ".join(f"shapes:{name}" for name in SHAPES_SPLITS)
        raise PromptsError(f"prompts.source: no 'shapes:{split}'; there are {known}")
    from capo.shapes.prompts import prompts

    return [make_prompt(*row) for row in prompts(split, count, seed)]


def _draw(prompts: list[Prompt], section: PromptsSection, seed: int) -> list[Prompt]:
    texts = {prompt.text for prompt in prompts}
    if section.count is None or section.count > len(texts):
        raise PromptsError(
            f"{section.source}: {len(texts)} different prompts, but prompts.count asks for {section.count}"
        )
    drawn = set(sorted(texts, key=lambda text: stable_seed("prompts", seed, text))[: section.count])
    return [prompt for prompt in prompts if prompt.text in drawn]
