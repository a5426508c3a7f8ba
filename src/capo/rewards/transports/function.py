"""A reward of the user's own: a function `score(images, prompts) -> list[float]`.

It is imported by the path a recipe gives, `package.module:function`, from what is installed or
from the current directory; or an installed package names it, as an entry point of the group
`capo.rewards`. Its scores may be of any scale; its attribute `comparison` says how they compare
(the recipe may say so instead), its attribute `range` within which two numbers they lie, and its
attribute `truncated`, a function of the prompts, of which it reads the beginning only.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.rewards.comparison import NAMES, parse_comparison
from capo.rewards.protocol import RewardError
from capo.rewards.weights.location import file_identity

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison

GROUP = "capo.rewards"


class FunctionReward:
    """The function behind the reward protocol; what it returns is checked by `score_images`."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._function = _load(source)
        self.comparison = _declared_comparison(source)
        self.range: tuple[float, float] | None = getattr(self._function, "range", None)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Whatever the function returns for the n images and their prompts."""
        return self._function(images, prompts)

    def truncated(self, prompts: list[str]) -> "Sequence[bool | None]":
        """What the function's attribute of that name says of each prompt; None without one."""
        told = getattr(self._function, "truncated", None)
        return [None] * len(prompts) if told is None else told(prompts)


class FunctionSource:
    """A section that names a function; `package` tells which installed one it came with, if any."""

    def __init__(self, section: RewardSection, source: str, package: str = "") -> None:
        self._name, self.source, self._package = section.name, source, package

    def identity(self) -> str:
        """The function's path, a digest of its file, and the package it came with."""
        told = [self.source, file_identity(source_file(self.source))]
        return " ".join([*told, *([self._package] if self._package else [])])

    def comparison(self) -> "Comparison | None":
        """The function's attribute; None without one."""
        return _declared_comparison(self.source)

    def load(self, device: Any) -> FunctionReward:
        """The function, imported."""
        return FunctionReward(self._name, self.source)


def is_path(source: str) -> bool:
    """Whether `source` is written as `package.module:function`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source) is not None


def installed_functions() -> dict[str, EntryPoint]:
    """Name → entry point of the rewards that installed packages bring."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def installed_source(section: RewardSection, entry: EntryPoint) -> FunctionSource:
    """The function an installed package names; the package's version counts, its files being many."""
    package = f"{entry.dist.name}=={entry.dist.version}" if entry.dist else ""
    if not is_path(entry.value):
        raise RewardError(
            f"reward {section.name!r}: the entry point {entry.name} of {package} is {entry.value!r}; "
            "it must name a function as package.module:function"
        )
    return FunctionSource(section, entry.value, package)


def source_file(source: str) -> Path:
    """The file of the function's module, found without running it."""
    module = source.partition(":")[0]
    _see_current_directory()
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise _not_found(source)
    return Path(spec.origin)


def _declared_comparison(source: str) -> "Comparison | None":
    """The function's attribute `comparison`: itself, by name, or as a table of name and parameter."""
    declared: Any = getattr(_load(source), "comparison", None)
    if callable(declared) and not isinstance(declared, type):
        return declared
    try:
        return parse_comparison(declared)
    except RewardError:
        raise RewardError(
            f"{source}: its comparison is {declared!r}; it must be one of {', '.join(NAMES)}, "
            "or one made as capo.BradleyTerry(temperature=1.0)"
        ) from None


def _load(source: str) -> Any:
    module, _, name = source.partition(":")
    _see_current_directory()
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise _not_found(source) from None
        raise
    found = getattr(loaded, name, None)
    if not callable(found):
        raise RewardError(f"{source}: {loaded.__file__} has no function {name!r}")
    return found


def _not_found(source: str) -> RewardError:
    return RewardError(
        f"{source}: no module {source.partition(':')[0]!r}, neither installed nor in {Path.cwd()}"
    )


def _see_current_directory() -> None:
    # Last, so that a stray file there takes the place of no installed module.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
