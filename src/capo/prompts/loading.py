"""Load the prompts that a recipe section names."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from capo.engine.progress import say
from capo.engine.seeds import stable_seed
from capo.prompts import hub
from capo.prompts.benchmark_prompts import BENCHMARKS, find_benchmark, official_names, read_benchmark
from capo.prompts.files import READERS, read_text
from capo.prompts.parquet import read_hub, read_parquet
from capo.prompts.plugin_sources import read_plugin
from capo.prompts.prompt import Prompt, make_prompt
from capo.prompts.rows import PROMPTS, PromptRequest, SourceRow
from capo.prompts.sidecars import caption_files, read_sidecars
from capo.prompts.text_rules import PromptsError, check_text, text_problem
from capo.recipe import PromptsSection
from capo.recipe.plugins import PROMPT_SOURCES, plugin_version, plugins
from capo.store.manifest import identify

HUB = hub.PREFIX.removesuffix(":")

NOTHING_MORE: tuple[str | None, dict[str, Any]] = (None, {})
"""The category and metadata of a prompt that has neither, one object for all."""


def load_prompts(section: PromptsSection, seed: int, field: str = PROMPTS) -> list[Prompt]:
    """Return the distinct prompts that `section` names, in the order of their source.

    Texts are equal if all their characters are, apart from surrounding white space; the first one counts.
    `seed` draws `count` of them; which ones depends on the texts and not on their order. `field` is the
    section's place in the recipe, for errors. Raises `PromptsError`, which names the file and line.
    """
    return collect_prompts(section, seed, field)[0]


def collect_prompts(section: PromptsSection, seed: int, field: str = PROMPTS) -> tuple[list[Prompt], int]:
    """Return what `load_prompts` does, and how many rows of the source repeat an earlier one.

    Unchanged sources are read once per process; a set on the Hub counts as unchanged.
    """
    prompts, duplicates = _collected(section.model_dump_json(), seed, field, source_identity(section, field))
    return list(prompts), duplicates


@lru_cache(maxsize=8)
def _collected(
    section_json: str, seed: int, field: str, identity: str | None
) -> tuple[tuple[Prompt, ...], int]:
    section = PromptsSection.model_validate_json(section_json)
    request = PromptRequest(section, field)
    kind, name = _kind(request)
    first: dict[str, tuple[str | None, dict[str, Any]]] = {}  # without the place, which takes most memory
    rows = 0
    for row in _usable(_rows(kind, name, request, seed), section.source):
        rows += 1
        known = (row.category, row.metadata) if row.category or row.metadata else NOTHING_MORE
        first.setdefault(row.text, known)
    if not first:
        condition = f" that meets {field}.where" if section.where else ""
        raise PromptsError(f"{section.source}: no prompt{condition}")
    drawn = first if _takes_all(section, len(first)) else _drawn(list(first), request, seed)
    kept = ((text, of_text) for text, of_text in first.items() if text in drawn)
    return tuple(make_prompt(text, *of_text) for text, of_text in kept), rows - len(first)


def load_rows(section: PromptsSection, seed: int, field: str) -> list[Prompt]:
    """Return a prompt for every row of the source, in order, with `count` as in `load_prompts`.

    Rows that repeat a text have an address of their own: their images start from other noise.
    """
    request = PromptRequest(section, field)
    kind, name = _kind(request)
    seen: Counter[str] = Counter()
    prompts = []
    for row in _usable(_rows(kind, name, request, seed), section.source):
        prompt = make_prompt(row.text, row.category, row.metadata)
        if repeats := seen[row.text]:
            address = make_prompt(f"{row.text}\0{repeats}").prompt_id
            prompt = replace(prompt, prompt_id=address)
        seen[row.text] += 1
        prompts.append(prompt)
    if not prompts:
        raise PromptsError(f"{field}: {section.source} has no prompts")
    if _takes_all(section, len(prompts)):
        return prompts
    drawn = _drawn([prompt.prompt_id for prompt in prompts], request, seed)
    return [prompt for prompt in prompts if prompt.prompt_id in drawn]


def prompts_inputs(field: str, section: PromptsSection) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the prompts of the recipe's `field`."""
    return {f"{field}.content": identify(f"{field}.source", lambda: source_identity(section, field))}


def source_identity(section: PromptsSection, field: str = PROMPTS) -> str | None:
    """Return a digest of the files that the source is read from, or the version of its package.

    None for prompts that come with capo, and for a set on the Hub, which its revision identifies.
    """
    request = PromptRequest(section, field)
    kind, name = _kind(request)
    if kind == HUB:
        return None
    if kind in plugins(PROMPT_SOURCES):
        return plugin_version(PROMPT_SOURCES, kind)
    files = _files(kind, name, request)
    digests = []
    for path in files:
        if not path.is_file():
            raise _no_file(request)
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest())
    if len(files) == 1:
        return digests[0]
    named = "".join(f"{path.name}\0{digest}\0" for path, digest in zip(files, digests, strict=True))
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def _files(kind: str, name: str, request: PromptRequest) -> list[Path]:
    if kind != "file":
        return find_benchmark(kind, _benchmark_path(kind, name, request))
    path = Path(name)
    return caption_files(path, request.field) if path.is_dir() else [path]


def _benchmark_path(kind: str, name: str, request: PromptRequest) -> Path:
    """Return the folder or file of a benchmark, fetched from the Hub if it is there."""
    if not name.startswith(hub.PREFIX):
        return Path(name)
    try:
        return hub.fetch_files(name, official_names(kind), request.section.revision)
    except hub.HubError as error:
        raise PromptsError(f"{request.field}.source: {error}") from error


def _usable(rows: Iterable[SourceRow], source: str) -> Iterator[SourceRow]:
    """Yield the rows that have a prompt.

    Unusable text is an error, but in Parquet files, which hold what people once typed into a form, the row
    is skipped and counted.
    """
    skipped = 0
    for row in rows:
        if not row.text:
            continue
        if row.place is not None:
            check_text(row.text, row.place)
            check_text(row.category or "", row.place, "category")
        elif text_problem(row.text) or text_problem(row.category or ""):
            skipped += 1
            continue
        yield row
    if skipped:
        say(f"{source}: skipped {skipped} rows with control characters or overlong text")


def _kind(request: PromptRequest) -> tuple[str, str]:
    """Return an installed source, `hub`, a benchmark or `file`, and its set, data set or path."""
    source = request.section.source
    before, colon, after = source.partition(":")
    known = {*plugins(PROMPT_SOURCES), HUB, *BENCHMARKS}
    kind, name = (before, after) if colon and before in known else ("file", source)
    if kind != HUB:
        fixed = ("split",) if kind in BENCHMARKS and name.startswith(hub.PREFIX) else ("split", "revision")
        _refuse(request, fixed, "only a data set on the Hub has one")
    if kind not in (HUB, "file"):
        _refuse(request, ("column", "where"), f"the columns of {kind} are fixed")
    if kind in plugins(PROMPT_SOURCES):
        _refuse(request, ("skip",), f"{kind} draws its prompts itself; choose another of its sets")
    return kind, name


def _refuse(request: PromptRequest, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(request.section, name) is not None:
            raise PromptsError(f"{request.field}.{name} does not apply to {request.section.source}: {why}")


def _rows(kind: str, name: str, request: PromptRequest, seed: int) -> Iterator[SourceRow]:
    if kind in plugins(PROMPT_SOURCES):
        return read_plugin(kind, name, request, seed)
    if kind == HUB:
        return read_hub(request)
    if kind in BENCHMARKS:
        return read_benchmark(kind, _benchmark_path(kind, name, request))
    path = Path(name)
    if path.is_dir():
        return read_sidecars(path, request)
    if not path.is_file():
        raise _no_file(request)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet([name], request)
    if suffix not in READERS:
        raise PromptsError(f"{path}: unknown file type; prompt files end in {', '.join(READERS)}, .parquet")
    return read_text(name, path.read_bytes(), request)


def _takes_all(section: PromptsSection, there: int) -> bool:
    return section.skip is None and section.count in (None, there)


def _drawn(keys: list[str], request: PromptRequest, seed: int) -> set[str]:
    """Draw `count` of the keys, after those to skip; raises `PromptsError` if there are too few."""
    source, skip = request.section.source, request.section.skip or 0
    count = max(1, len(keys) - skip) if request.section.count is None else request.section.count
    if skip + count > len(keys):
        skipped = f" after {request.field}.skip {skip}" if skip else ""
        distinct = "1 distinct prompt" if len(keys) == 1 else f"{len(keys)} distinct prompts"
        raise PromptsError(f"{source}: {request.field}.count is {count}{skipped}, but it has {distinct}")
    return set(sorted(keys, key=lambda key: stable_seed("prompts", seed, key))[skip : skip + count])


def _no_file(request: PromptRequest) -> PromptsError:
    installed = (f"{kind}:NAME" for kind in plugins(PROMPT_SOURCES))
    benchmarks = (f"{name}:PATH" for name in BENCHMARKS)
    kinds = ", ".join([*installed, f"{HUB}:OWNER/NAME", *benchmarks])
    return PromptsError(
        f"{request.field}.source: no prompt file {request.section.source}; name a file, a folder of images "
        f"with captions beside them, or one of {kinds}"
    )
