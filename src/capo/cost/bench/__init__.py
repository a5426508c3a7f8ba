"""What each part of the pipeline costs on this machine: seconds, memory, share of the chip's peak.

An architecture is measured at its real size with random weights, so that nothing is downloaded; a
recipe with the weights it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capo.cost.bench.measure import Row

PARTS = {
    "train": ("training_speed:bench_train", "pairs"),
    "generate": ("generation_speed:bench_generate", "images"),
    "decode": ("generation_speed:bench_decode", "images"),
    "score": ("scoring_speed:bench_score", "images"),
    "pairs": ("scoring_speed:bench_pairs", "prompts"),
}
"""Part of the pipeline → `module:function` that yields its rows, and the unit of its speed."""


@dataclass(frozen=True)
class Benchmark:
    """What was measured, where, and with which settings."""

    part: str
    subject: str
    unit: str
    device: str
    threads: int
    versions: dict[str, str]
    settings: dict[str, Any]
    """The sections of the recipe that decide what the work is."""
    rows: "list[Row]"
    """A first one named `conventional` is what the others compare with."""


def bench(
    part: str, architecture: str | None, recipe: str | None, overrides: Sequence[str], repeats: int
) -> Benchmark:
    """Measure a part of the pipeline; see `capo.cost.bench.subject.subject` for what is measured.

    Raises `ValueError` for an unknown part or architecture, `RecipeError` for a recipe.
    """
    if part not in PARTS:
        raise ValueError(f"no part {part!r} to measure; there are {', '.join(PARTS)}")
    import torch

    from capo.cost.bench.subject import subject
    from capo.engine.device import device_name, select_device
    from capo.engine.progress import say
    from capo.store.manifest import versions

    place, unit = PARTS[part]
    module, name = place.split(":")
    function = getattr(import_module(f"capo.cost.bench.{module}"), name)
    rows = []
    with subject(architecture, recipe, overrides) as what:
        for row in function(what, repeats):
            say(f"{row.name}: " + ("too little memory" if row.seconds is None else f"{row.seconds:.3g} s"))
            rows.append(row)
        kept = ("model", "generate", "pairs", "train")
        settings = {name: getattr(what.recipe, name).model_dump(mode="json") for name in kept}
        device = device_name(select_device(what.recipe.engine))
    return Benchmark(part, what.name, unit, device, torch.get_num_threads(), versions(), settings, rows)
