"""What an artifact cost, in a few words: `12 images, 21 s`."""

from collections.abc import Iterable
from pathlib import Path

from capo.store import Run
from capo.store.replaced import FOLDER

COUNTED = {
    "prompts": ("prompts", "prompts"),
    "samples": ("samples", "images"),
    "scores": ("scored", "scores"),
    "train": ("steps", "steps"),
}
"""By kind of artifact: the number in its summary, and what it counts."""


def cost(run: Run, name: str) -> str:
    """Return what the artifact `name` of `run` consists of and how long it took, as far as is known."""
    artifact = run.artifact(name)
    manifest = artifact.manifest()
    key, unit = COUNTED.get(name.partition("/")[0], ("", ""))
    parts = []
    if manifest is None:
        parts.append(f"{len(artifact.files())} files, unfinished")
    elif key in manifest.summary:
        parts.append(f"{manifest.summary[key]:,} {unit}")
    if (timing := run.timings().get(name)) is not None:
        parts.append(duration(timing["seconds"]))
    return ", ".join(parts)


def with_costs(run: Run, names: Iterable[str]) -> str:
    """Return names with what they cost: `samples (12 images, 21 s), report (1 s)`."""
    costs = {name: cost(run, name) for name in names}
    return ", ".join(f"{name} ({text})" if text else name for name, text in costs.items())


def replacing(run: Run, names: Iterable[str]) -> str:
    """Announce what `--force` is about to replace."""
    option = "" if run.path.parent == Path("runs") else f" --run {run.path}"
    return (
        f"Replacing {with_costs(run, names)}. They are kept in {run.path / FOLDER} until you run "
        f"`capo clean{option}`"
    )


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours: `21 s`, `12 min`, `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
