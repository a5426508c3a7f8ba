"""Calibrated multi-preference optimization for text-to-image diffusion models.

The public names load on first use, so that `import capo` costs nothing:

    from capo import calibrate, BradleyTerry, select_frontier
    from capo import load_recipe, run
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from capo.method.calibration import BradleyTerry, PowerRatio, Threshold, calibrate
    from capo.method.objective import capo_loss, dpo_loss, implicit_reward, ipo_loss
    from capo.method.selection import (
        Selection,
        lower_frontier,
        select_best_worst,
        select_frontier,
        select_sum,
        upper_frontier,
    )
    from capo.method.soup import slerp, soup
    from capo.method.weighting import flow_log_snr, flow_sigmoid_weight, flow_time, sigmoid_weight
    from capo.method.winrate import bootstrap_interval, win_rate
    from capo.pipeline.run import RunResult, run
    from capo.recipe import Recipe, RecipeError, load_recipe
    from capo.store.run_directory import Run, WorkspaceError

__all__ = [
    "BradleyTerry",
    "PowerRatio",
    "Recipe",
    "RecipeError",
    "Run",
    "RunResult",
    "Selection",
    "Threshold",
    "WorkspaceError",
    "__version__",
    "bootstrap_interval",
    "calibrate",
    "capo_loss",
    "dpo_loss",
    "flow_log_snr",
    "flow_sigmoid_weight",
    "flow_time",
    "implicit_reward",
    "ipo_loss",
    "load_recipe",
    "lower_frontier",
    "run",
    "select_best_worst",
    "select_frontier",
    "select_sum",
    "sigmoid_weight",
    "slerp",
    "soup",
    "upper_frontier",
    "win_rate",
]

_HOMES = {
    "method.calibration": ("BradleyTerry", "PowerRatio", "Threshold", "calibrate"),
    "method.objective": ("capo_loss", "dpo_loss", "implicit_reward", "ipo_loss"),
    "method.selection": (
        "Selection",
        "lower_frontier",
        "select_best_worst",
        "select_frontier",
        "select_sum",
        "upper_frontier",
    ),
    "method.soup": ("slerp", "soup"),
    "method.weighting": ("flow_log_snr", "flow_sigmoid_weight", "flow_time", "sigmoid_weight"),
    "method.winrate": ("bootstrap_interval", "win_rate"),
    "pipeline": ("RunResult", "run"),
    "recipe": ("Recipe", "RecipeError", "load_recipe"),
    "workspace": ("Run", "WorkspaceError"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'capo' has no attribute {name!r}")
    return getattr(import_module(f"capo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
