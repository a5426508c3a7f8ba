"""A reward section that names a catalog entry: its weights, its options, its identity and how it loads."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from capo.pretrained.tokenizer_packages import missing_packages
from capo.recipe import RewardSection
from capo.recipe.hints import nearest
from capo.recipe.hub_id import split_revision
from capo.rewards.catalog import WEIGHT_OPTIONS, CatalogEntry
from capo.rewards.protocol import Reward, RewardError
from capo.rewards.weights.download import download_instructions, fetch_problem
from capo.rewards.weights.location import (
    check_location,
    file_identity,
    local_folder,
    record_commit,
    weights_identity,
)
from capo.store.check import Finding

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


class ShippedSource:
    """A catalog entry with the checkpoint and the options of a section."""

    def __init__(self, section: RewardSection, entry: CatalogEntry) -> None:
        self._name, self._timeout = section.name, section.timeout
        self._entry = _with_checkpoint(entry, section.checkpoint) if section.checkpoint else entry
        for option, value in section.options.items():
            _check_option(section.name, self._entry, option, value)
        self._options = {**self._entry.options, **section.options}

    def identity(self) -> str:
        """Return the class name, the identity of all weights and of the processor, and the options.

        An option that names a file counts by the content of the file, and one that names further
        weights by their identity. The entry's `extra_identity` adds what the architecture reads from
        elsewhere.
        """
        self._check_built()
        options = {name: value for name, value in self._options.items() if name not in WEIGHT_OPTIONS}
        parts = [self._entry.architecture.partition(":")[2]]
        parts += [weights_identity(self._name, location) for location in self._locations]
        parts += [json.dumps(options, sort_keys=True)] if options else []
        parts += [file_identity(Path(value)) for _, value in sorted(options.items()) if _is_file(value)]
        if self._entry.extra_identity:
            parts += _import(self._entry.extra_identity)(**self._options)
        return " ".join(parts)

    def pin(self) -> bool:
        """Record the Hub commit of all weights that have none yet; return True if any was recorded."""
        recorded = [record_commit(location) for location in self._locations]
        return any(recorded)

    @property
    def _locations(self) -> list[str]:
        more = [self._entry.processor, *(self._options.get(name) for name in WEIGHT_OPTIONS)]
        return [self._entry.checkpoint, *(location for location in more if location)]

    def comparison(self) -> "Comparison | None":
        """Return the comparison of the architecture; `comparison_with` adapts it to the options."""
        architecture = load_architecture(self._entry)
        adapt = getattr(architecture, "comparison_with", None)
        return adapt(**self._options) if adapt else architecture.comparison

    def check(self) -> Iterator[Finding]:
        """Check that all weights are known, and that those that are not here can be fetched."""
        self.identity()
        if not self._entry.own_process:
            for folder in filter(None, map(local_folder, self._locations)):
                for sentence in missing_packages(folder):
                    yield Finding(f"rewards.{self._name}", sentence)
        instructions = download_instructions(self._entry, self._options)
        if instructions is None:
            return
        if problem := fetch_problem(self._entry, self._options):
            yield Finding(f"rewards.{self._name}", f"{problem}. {instructions}")
        else:
            yield Finding(f"rewards.{self._name}", f"weights to be downloaded. {instructions}", "note")

    def load(self, device: Any) -> Reward:
        """Return the architecture with its weights. An error about missing weights says how to get them."""
        self._check_built()
        entry = self._entry
        for location in self._locations:
            check_location(self._name, location)
        build = load_architecture(entry)
        timeout = {"timeout": self._timeout} if entry.own_process else {}
        try:
            return build(self._name, entry.checkpoint, device, entry.processor, **timeout, **self._options)
        except RewardError as error:
            if instructions := download_instructions(entry, self._options):
                raise RewardError(f"reward {self._name!r}: {error}\n{instructions}") from error
            raise

    def _check_built(self) -> None:
        location, command = self._entry.checkpoint, self._entry.built_by
        if command and not Path(location).is_dir():
            raise RewardError(f"reward {self._name!r}: {location} is missing; build it with `{command}`")


def load_architecture(entry: CatalogEntry) -> Any:
    """Import the class of an entry."""
    return _import(entry.architecture)


def architecture_options(entry: CatalogEntry) -> dict[str, Any]:
    """Return the options of an architecture and their defaults: its keyword-only parameters."""
    parameters = inspect.signature(load_architecture(entry)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _with_checkpoint(entry: CatalogEntry, checkpoint: str) -> CatalogEntry:
    """Return `entry` with other weights.

    Other weights bring their own processor and further weights. Another revision of the same
    repository keeps those of the entry.
    """
    if split_revision(checkpoint)[0] == split_revision(entry.checkpoint)[0]:
        return replace(entry, checkpoint=checkpoint)
    options = {name: value for name, value in entry.options.items() if name not in WEIGHT_OPTIONS}
    return replace(entry, checkpoint=checkpoint, processor=None, options=options, built_by=None)


def _import(path: str) -> Any:
    """Import what `module:name` names in `capo.rewards.models`."""
    module, _, name = path.partition(":")
    return getattr(import_module(f"capo.rewards.models.{module}"), name)


def _check_option(reward: str, entry: CatalogEntry, name: str, value: Any) -> None:
    """Raise `RewardError` unless the architecture has the option and `value` has its type."""
    known = architecture_options(entry)
    if name not in known:
        listed = f"its options are {', '.join(known)}" if known else "it has no options"
        raise RewardError(f"reward {reward!r}: no option {name!r}; {listed}{nearest(name, known)}")
    kind = get_type_hints(load_architecture(entry).__init__)[name]
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise RewardError(f"reward {reward!r}: option {name}: {why}, got {value!r}") from None


def _is_file(value: Any) -> bool:
    # Text with several lines can be longer than any path, which would raise an error.
    return isinstance(value, str) and "\n" not in value and len(value) < 256 and Path(value).is_file()
