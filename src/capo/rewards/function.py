"""A reward of the user's own: a function `score(images, prompts) -> list[float]`.

It is imported by the path a recipe gives, `package.module:function`, from what is installed or
from the current directory. Its scores may be of any scale; its attribute `comparison` says how
they compare (the recipe may say so instead).
"""

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.rewards.comparison import NAMES, named_comparison
from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison


class FunctionReward:
    """The function behind the reward protocol; what it returns is checked by `score_images`."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self._function = _load(source)
        self.comparison = declared_comparison(source)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Whatever the function returns for the n images and their prompts."""
        return self._function(images, prompts)


def is_path(source: str) -> bool:
    """Whether `source` is written as `package.module:function`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source) is not None


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


def declared_comparison(source: str) -> "Comparison | None":
    """The function's attribute `comparison`, itself or by name; None without one."""
    declared: Comparison | str | None = getattr(_load(source), "comparison", None)
    if isinstance(declared, str) and declared in NAMES:
        return named_comparison(declared)
    if declared is None or (callable(declared) and not isinstance(declared, type)):
        return declared
    raise RewardError(
        f"{source}: its comparison is {declared!r}; it must be one of {', '.join(NAMES)}, "
        "or one made as capo.BradleyTerry(temperature=1.0)"
    )


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
