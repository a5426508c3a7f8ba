"""Shipped rewards: an architecture of this package, its weights and its options."""

import difflib
import hashlib
import inspect
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.rewards.catalogue import EMBEDDED, SHIPPED, Shipped
from capo.rewards.places import check_place, place_identity
from capo.rewards.protocol import Reward, RewardError

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


class ShippedOrigin:
    """A section that names an entry of the catalogue, with weights of its own or without."""

    def __init__(self, section: RewardSection, source: str) -> None:
        self._name = section.name
        entry = SHIPPED[source]
        if section.checkpoint:
            # Other weights come with their own tokenizer and image processor.
            entry = replace(entry, checkpoint=section.checkpoint, processor=None)
        self._entry = entry
        self._options = _options(section, entry)

    def identity(self) -> str:
        """The architecture, what its weights and its processor are, and its options.

        An option that names a file, as a template, counts by what is in the file.
        """
        entry = self._entry
        places = [entry.checkpoint, *([entry.processor] if entry.processor else [])]
        self._check_embedded()
        told = [json.dumps(self._options, sort_keys=True)] if self._options else []
        told += [_content(value) for _, value in sorted(self._options.items()) if _is_file(value)]
        class_name = entry.architecture.partition(":")[2]
        return " ".join([class_name, *(place_identity(self._name, place) for place in places), *told])

    def comparison(self) -> "Comparison | None":
        """That of the architecture, with these options if they change the scale of its scores."""
        architecture = _architecture(self._entry)
        told = getattr(architecture, "comparison_with", None)
        return told(**self._options) if told else architecture.comparison

    def load(self, device: Any) -> Reward:
        """The architecture with the weights in it."""
        self._check_embedded()
        check_place(self._name, self._entry.checkpoint)
        build = _architecture(self._entry)
        return build(self._name, self._entry.checkpoint, device, self._entry.processor, **self._options)

    def _check_embedded(self) -> None:
        place = Path(self._entry.checkpoint)
        if place.parent == EMBEDDED and not place.is_dir():
            raise RewardError(f"reward {self._name!r}: {place} is not there; `capo shapes build` makes it")


def architecture_options(shipped: Shipped) -> dict[str, Any]:
    """The options of an architecture with their defaults: its keyword-only parameters."""
    parameters = inspect.signature(_architecture(shipped)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _architecture(shipped: Shipped) -> Any:
    module, _, name = shipped.architecture.partition(":")
    return getattr(import_module(f"capo.rewards.{module}"), name)


def _options(section: RewardSection, shipped: Shipped) -> dict[str, Any]:
    """The options given, by the catalogue and by the section, which goes first."""
    if section.options:
        known = architecture_options(shipped)
        for name in section.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise RewardError(
                    f"reward {section.name!r}: no option {name!r} ({', '.join(known) or 'it has none'})"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
    return {**shipped.options, **section.options}


def _is_file(value: Any) -> bool:
    # A text of several lines may be longer than a path can be.
    return isinstance(value, str) and "\n" not in value and len(value) < 256 and Path(value).is_file()


def _content(path: str) -> str:
    return f"blake2b:{hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()}"
