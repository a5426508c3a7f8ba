"""Where prompts come from: the embedded world's grammar, files, data sets on the Hub, benchmarks.

load_prompts(PromptsSection(source="shapes:train", count=192), seed=0)
load_prompts(PromptsSection(source="my-prompts.csv", column="english"), seed=0)
load_prompts(PromptsSection(source="geneval:geneval/prompts"), seed=0)
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo.engine.seeds import stable_seed
from capo.prompts import hub
from capo.prompts.benchmarks import BENCHMARKS, find_benchmark, read_benchmark
from capo.prompts.files import READERS, read_text
from capo.prompts.parquet import read_hub, read_parquet
from capo.prompts.rows import PROMPTS, PromptsError, Row, Wanted
from capo.recipe import PromptsSection

__all__ = [
    "Prompt",
    "PromptsError",
    "collect_prompts",
    "load_prompts",
    "make_prompt",
    "prompts_inputs",
    "source_identity",
]

SHAPES_SPLITS = ("train", "validation", "test")
HUB = hub.PREFIX.removesuffix(":")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: what the models see (`text`), and what is known about it.

    `prompt_id` is its address in every artifact: 16 hex digits, a digest of the text. `category`
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


def load_prompts(section: PromptsSection, seed: int, field: str = PROMPTS) -> list[Prompt]:
    """The prompts that `section` names, each text once, in the order of their source.

    Texts are the same when they are equal letter by letter, but for blanks around them; the first
    counts. `count` of them are drawn by `seed`; which ones depends on the texts, not on their order.
    `field` is where the recipe has the section, for errors. Raises `PromptsError` naming the file and line
    that cannot be used.
    """
    return collect_prompts(section, seed, field)[0]


def collect_prompts(section: PromptsSection, seed: int, field: str = PROMPTS) -> tuple[list[Prompt], int]:
    """As `load_prompts`, and how many rows of the source repeat an earlier one."""
    wanted = Wanted(section, field)
    kind, name = _kind(wanted)
    if kind == "shapes":
        return _read_shapes(name, wanted, seed), 0
    first: dict[str, Row] = {}
    rows = 0
    for row in _rows(kind, name, wanted):
        rows += 1
        first.setdefault(row.text, row)
    if not first:
        kept_by = f" that {field}.where keeps" if section.where else ""
        raise PromptsError(f"{section.source}: no prompt in it{kept_by}")
    kept = first.values() if section.count is None else _draw(first, wanted, seed)
    return [make_prompt(row.text, row.category, row.metadata) for row in kept], rows - len(first)


def prompts_inputs(field: str, section: PromptsSection) -> dict[str, Any]:
    """The part of a fingerprint that says which prompts the recipe's `field` reads."""
    return {f"{field}.content": source_identity(section, field)}


def source_identity(section: PromptsSection, field: str = PROMPTS) -> str | None:
    """A digest of the files that the source is read from.

    None for what comes with the package, and for a set on the Hub, whose revision tells it.
    """
    wanted = Wanted(section, field)
    kind, name = _kind(wanted)
    if kind in ("shapes", HUB):
        return None
    files = [Path(name)] if kind == "file" else find_benchmark(kind, Path(name))
    digests = []
    for path in files:
        if not path.is_file():
            raise _not_there(wanted)
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest())
    if len(files) == 1:
        return digests[0]
    named = "".join(f"{path.name}\0{digest}\0" for path, digest in zip(files, digests, strict=True))
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def _kind(wanted: Wanted) -> tuple[str, str]:
    """`shapes`, `hub`, a benchmark or `file`, and its split, data set or path."""
    source = wanted.section.source
    before, colon, after = source.partition(":")
    known = {"shapes", HUB, *BENCHMARKS}
    kind, name = (before, after) if colon and before in known else ("file", source)
    if kind != HUB:
        _refuse(wanted, ("split", "revision"), "only a data set of the Hub has one")
    if kind not in (HUB, "file"):
        _refuse(wanted, ("column", "where"), f"{kind} knows its own columns")
    return kind, name


def _refuse(wanted: Wanted, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(wanted.section, name) is not None:
            raise PromptsError(f"{wanted.field}.{name} does not apply to {wanted.section.source}: {why}")


def _rows(kind: str, name: str, wanted: Wanted) -> Iterator[Row]:
    if kind == HUB:
        return read_hub(wanted)
    path = Path(name)
    if kind in BENCHMARKS:
        return read_benchmark(kind, path)
    if not path.is_file():
        raise _not_there(wanted)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet([name], wanted)
    if suffix not in READERS:
        raise PromptsError(f"{path}: prompt files end in {', '.join(READERS)}, .parquet")
    return read_text(name, path.read_bytes(), wanted)


def _read_shapes(split: str, wanted: Wanted, seed: int) -> list[Prompt]:
    if split not in SHAPES_SPLITS:
        known = ", ".join(f"shapes:{name}" for name in SHAPES_SPLITS)
        raise PromptsError(f"{wanted.field}.source: no 'shapes:{split}'; there are {known}")
    from capo.shapes.grammar import prompts

    return [make_prompt(*row) for row in prompts(split, wanted.section.count, seed)]


def _draw(rows: dict[str, Row], wanted: Wanted, seed: int) -> list[Row]:
    source, count = wanted.section.source, wanted.section.count
    if count is None or count > len(rows):
        raise PromptsError(
            f"{source}: {len(rows)} different prompts, but {wanted.field}.count asks for {count}"
        )
    drawn = set(sorted(rows, key=lambda text: stable_seed("prompts", seed, text))[:count])
    return [row for text, row in rows.items() if text in drawn]


def _not_there(wanted: Wanted) -> PromptsError:
    kinds = ", ".join(["shapes:SPLIT", f"{HUB}:OWNER/NAME", *(f"{name}:PATH" for name in BENCHMARKS)])
    return PromptsError(
        f"{wanted.section.source}: no such prompt file; {wanted.field}.source is a file, or one of {kinds}"
    )
