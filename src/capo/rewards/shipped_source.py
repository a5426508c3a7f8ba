"""Shipped rewards: an architecture of this package, its weights and its options."""

import inspect
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from capo.recipe import RewardSection
from capo.recipe.hints import nearest
from capo.recipe.hub_id import split_revision
from capo.rewards.catalog import EMBEDDED, PLACE_OPTIONS, SHIPPED, Shipped
from capo.rewards.protocol import Reward, RewardError
from capo.rewards.weights.download import download_instructions
from capo.rewards.weights.location import check_location, file_identity, record_commit, weights_identity

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


class ShippedSource:
    """A section that names an entry of the catalog, with weights of its own or without."""

    def __init__(self, section: RewardSection, source: str) -> None:
        self._name, self._timeout = section.name, section.timeout
        entry = SHIPPED[source]
        if section.checkpoint:
            entry = _with_weights(entry, section.checkpoint)
        self._entry = entry
        self._options = _options(section, entry)

    def identity(self) -> str:
        """The architecture, what its weights and its processor are, and its options.

        An option that names a file, as a template, counts by what is in the file, one that names more
        weights by what these are; so does what an architecture reads from elsewhere, where that is
        not what it always was.
        """
        self._check_embedded()
        options = {name: value for name, value in self._options.items() if name not in PLACE_OPTIONS}
        told = [json.dumps(options, sort_keys=True)] if options else []
        told += [file_identity(Path(value)) for _, value in sorted(options.items()) if _is_file(value)]
        if self._entry.reads:
            told += _named(self._entry.reads)(**self._options)
        class_name = self._entry.architecture.partition(":")[2]
        return " ".join([class_name, *(weights_identity(self._name, place) for place in self._places), *told])

    def settle(self) -> bool:
        """Learn at which commits its weights are on the Hub, where that is not known; whether it is now."""
        learned = [record_commit(place) for place in self._places]
        return any(learned)

    @property
    def _places(self) -> list[str]:
        more = [self._entry.processor, *(self._options.get(name) for name in PLACE_OPTIONS)]
        return [self._entry.checkpoint, *(place for place in more if place)]

    def comparison(self) -> "Comparison | None":
        """That of the architecture, with these options if they change the scale of its scores."""
        architecture = _architecture(self._entry)
        told = getattr(architecture, "comparison_with", None)
        return told(**self._options) if told else architecture.comparison

    def load(self, device: Any) -> Reward:
        """The architecture with the weights in it."""
        self._check_embedded()
        entry = self._entry
        for place in self._places:
            check_location(self._name, place)
        build = _architecture(entry)
        waits = {"timeout": self._timeout} if entry.by_itself else {}
        try:
            return build(self._name, entry.checkpoint, device, entry.processor, **waits, **self._options)
        except RewardError as error:
            if missing := download_instructions(entry, self._options):
                raise RewardError(f"reward {self._name!r}: {error}\n{missing}") from error
            raise

    def _check_embedded(self) -> None:
        place = Path(self._entry.checkpoint)
        if place.parent == EMBEDDED and not place.is_dir():
            raise RewardError(f"reward {self._name!r}: {place} is not there; `capo shapes build` makes it")


def _with_weights(entry: Shipped, checkpoint: str) -> Shipped:
    """`entry` with other weights, which come with their own parts; other commits of its own do not."""
    if split_revision(checkpoint)[0] == split_revision(entry.checkpoint)[0]:
        return replace(entry, checkpoint=checkpoint)
    options = {name: value for name, value in entry.options.items() if name not in PLACE_OPTIONS}
    return replace(entry, checkpoint=checkpoint, processor=None, options=options)


def architecture_options(shipped: Shipped) -> dict[str, Any]:
    """The options of an architecture with their defaults: its keyword-only parameters."""
    parameters = inspect.signature(_architecture(shipped)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _architecture(shipped: Shipped) -> Any:
    return _named(shipped.architecture)


def _named(place: str) -> Any:
    """What `module:name` is among the rewards."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"capo.rewards.models.{module}"), name)


def _options(section: RewardSection, shipped: Shipped) -> dict[str, Any]:
    """The options given, by the catalog and by the section, which goes first."""
    for name, value in section.options.items():
        _check_option(section.name, shipped, name, value)
    return {**shipped.options, **section.options}


def _check_option(reward: str, shipped: Shipped, name: str, value: Any) -> None:
    """Raise `RewardError` unless the architecture has this option, and takes such a value."""
    known = architecture_options(shipped)
    if name not in known:
        there = ", ".join(known) or "it has none"
        raise RewardError(f"reward {reward!r}: no option {name!r} ({there}){nearest(name, known)}")
    kind = get_type_hints(_architecture(shipped).__init__)[name]
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise RewardError(f"reward {reward!r}: option {name}: {why}, got {value!r}") from None


def _is_file(value: Any) -> bool:
    # A text of several lines may be longer than a path can be.
    return isinstance(value, str) and "\n" not in value and len(value) < 256 and Path(value).is_file()
