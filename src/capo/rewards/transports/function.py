"""A reward of the user's own: a function `score(images, prompts) -> list[float]`.

A recipe names it as `package.module:function`, to be imported from what is installed or from the current
directory; or an installed package names it, as an entry point of the group `capo.rewards`.

Its scores may have any scale. Optional attributes: `comparison` says how two scores compare (the recipe can
override it), `range` gives the lowest and highest score, and `truncated`, a function of the prompts, reports
which prompts are longer than what the function reads.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.recipe.plugins import REWARDS, plugins
from capo.rewards.comparison import NAMES, parse_comparison
from capo.rewards.protocol import ProtocolError, RewardError
from capo.rewards.weights.location import file_identity
from capo.store.check import Finding

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison


class FunctionReward:
    """A function behind the reward protocol; `score_images` checks what it returns."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._source, self._function = source, _load(source)
        self.comparison = _declared_comparison(source)
        self.range: tuple[float, float] | None = getattr(self._function, "range", None)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return what the function returns for n images and their n prompts, unchecked."""
        return self._call(self._function, images, prompts)

    def truncated(self, prompts: list[str]) -> "Sequence[bool | None]":
        """Return what the function's attribute `truncated` returns; None for every prompt without one."""
        declared = getattr(self._function, "truncated", None)
        return [None] * len(prompts) if declared is None else self._call(declared, prompts)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except SystemExit as error:
            raise ProtocolError(
                f"reward {self.name!r}: {self._source} called sys.exit({error.code!r}); raise an "
                "exception for an image that cannot be scored"
            ) from error


class FunctionSource:
    """A section that names a function; `package` is the installed package that provides it, if any."""

    def __init__(self, section: RewardSection, source: str, package: str = "") -> None:
        self._name, self.source, self._package = section.name, source, package

    def identity(self) -> str:
        """Return the function's path, a digest of its file, and its package."""
        parts = [self.source, file_identity(source_file(self.source))]
        return " ".join([*parts, *([self._package] if self._package else [])])

    def comparison(self) -> "Comparison | None":
        """Return the function's attribute `comparison`, or None."""
        return _declared_comparison(self.source)

    def check(self) -> Iterator[Finding]:
        """Import the function."""
        _load(self.source)
        yield from ()

    def load(self, device: Any) -> FunctionReward:
        """Import the function."""
        return FunctionReward(self._name, self.source)


def is_path(source: str) -> bool:
    """Return whether `source` is written as `package.module:function`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source) is not None


def installed_functions() -> dict[str, EntryPoint]:
    """Return the entry points of rewards in installed packages, by name."""
    return plugins(REWARDS)


def installed_source(section: RewardSection, entry: EntryPoint) -> FunctionSource:
    """Return the function an installed package names; the package's version is part of its identity."""
    package = f"{entry.dist.name}=={entry.dist.version}" if entry.dist else ""
    if not is_path(entry.value):
        raise RewardError(
            f"reward {section.name!r}: the entry point {entry.name} of {package} is {entry.value!r}; "
            "it must name a function as package.module:function"
        )
    return FunctionSource(section, entry.value, package)


def source_file(source: str) -> Path:
    """Return the file of the function's module, without running it."""
    module = source.partition(":")[0]
    _add_current_directory()
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise _no_module(source)
    return Path(spec.origin)


def _declared_comparison(source: str) -> "Comparison | None":
    """Return the attribute `comparison`, which may be one, its name, or a table of name and parameter."""
    declared: Any = getattr(_load(source), "comparison", None)
    if callable(declared) and not isinstance(declared, type):
        return declared
    try:
        return parse_comparison(declared)
    except RewardError:
        raise RewardError(
            f"{source}: its comparison is {declared!r}; it must be one of {', '.join(NAMES)}, "
            "or an object such as capo.BradleyTerry(temperature=1.0)"
        ) from None


def _load(source: str) -> Any:
    module, _, name = source.partition(":")
    _add_current_directory()
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise _no_module(source) from None
        raise
    except SystemExit as error:
        raise RewardError(f"{source}: importing {module} called sys.exit({error.code!r})") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise RewardError(f"{source}: {loaded.__file__} has no function {name!r}")
    return function


def _no_module(source: str) -> RewardError:
    return RewardError(
        f"{source}: no module {source.partition(':')[0]!r}, neither installed nor in {Path.cwd()}"
    )


def _add_current_directory() -> None:
    # Last, so that a file there never shadows an installed module.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
