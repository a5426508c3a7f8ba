"""One line about what a stage made: `prompts: 192 prompts, 3 duplicates`."""

from collections.abc import Callable, Mapping
from typing import Any

from capo.engine.events import StageResult
from capo.reporting.wording import count


def _counted(noun: str, rest: str = "") -> Callable[[int], str]:
    """Return a function that says how many there are of `noun`, followed by `rest`."""
    return lambda number: f"{count(number, noun)}{rest}"


def _best(win_rate: float) -> str:
    """Say how the best step compares with the base."""
    return f"win-rate over the base {win_rate:.1%}" + ("" if win_rate > 0.5 else " (no step beat the base)")


PARTS: Mapping[str, Mapping[str, Callable[[Any], str]]] = {
    "prompts": {
        "prompts": _counted("prompt"),
        "duplicates": _counted("duplicate"),
        "images": _counted("image"),
        "without_caption": "{:,} without a caption".format,
    },
    "samples": {
        "samples": _counted("image"),
        "prompts": _counted("prompt"),
        "truncated_prompts": _counted("prompt", " longer than the text encoders read"),
        "unreadable": "{:,} unreadable".format,
        "enlarged": "{:,} smaller than the model's size".format,
    },
    "scores": {"scored": _counted("score"), "missing": "{:,} missing".format, "mean": "mean {:.4g}".format},
    "pairs": {
        "pairs": _counted("prompt", " with pairs"),
        "no_pair": "{:,} without".format,
        "dropped": "{:,} dropped for missing scores".format,
        "mean_delta_reward": "mean ΔR {:.3f}".format,
    },
    "validation": {
        "prompts": _counted("prompt"),
        "samples_per_prompt": _counted("image", " each"),
    },
    "train": {
        "steps": _counted("step"),
        "best_step": "best at step {:,}".format,
        "best_win_rate": _best,
        "roll_backs": _counted("roll-back"),
    },
    "baseline": {
        "prompts": _counted("prompt"),
        "samples_per_prompt": _counted("image", " each"),
    },
    "evaluate": {"prompts": _counted("prompt"), "training_win_rate": "win-rate over the base {:.1%}".format},
    "report": {"bytes": _counted("byte")},
}
"""By kind of artifact: the numbers of its summary, and how the line says them. Zeros are left out."""


def stage_line(result: StageResult) -> str:
    """Return what was made, from the summary of the artifact, and how long it took."""
    parts = PARTS.get(result.name.partition("/")[0], {})
    said = [say(result.summary[name]) for name, say in parts.items() if result.summary.get(name)]
    return f"{result.name}: {', '.join([*said, f'{result.seconds:.1f} s'])}"
