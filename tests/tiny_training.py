"""A real run of the tiny SDXL model up to its pairs, with rewards that measure one color."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from capo.pairing.pair import pair
from capo.recipe import Recipe, parse_recipe
from capo.sampling.collect_prompts import collect
from capo.sampling.generate import make_samples
from capo.scoring.score import make_scores
from capo.store import Run
from capo.store.step import Job
from capo.training.train import make_validation, train

PROMPTS = [f"a {color} {thing}" for color in ("red", "green", "blue") for thing in ("circle", "cat")]
VALIDATION = ["two red squares", "three blue dogs"]
BETA = 100.0


def redness(images, prompts):
    return [float(np.asarray(image, dtype=float)[..., 0].mean() / 8) for image in images]


def blueness(images, prompts):
    return [float(np.asarray(image, dtype=float)[..., 2].mean() / 8) for image in images]


redness.comparison = blueness.comparison = "bradley-terry"


def recipe(folder: Path, sdxl: Path, train: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    """A recipe on `sdxl` of 6 steps; `train` and `sections` are merged in."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"checkpoint": str(sdxl)},
        "prompts": {"source": _prompt_file(folder, "prompts.txt", PROMPTS)},
        "generate": {
            "samples_per_prompt": 4,
            "num_inference_steps": 3,
            "shard_prompts": 4,
            "batch_size": 8,
        },
        "rewards": [
            {"name": "red", "source": "tiny_training:redness", "comparison": "bradley-terry"},
            {"name": "blue", "source": "tiny_training:blueness", "comparison": "bradley-terry"},
        ],
        "train": {
            "beta": BETA,
            "steps": 6,
            "global_batch_size": 4,
            "learning_rate": 1e-3,
            "lora_rank": 2,
            "checkpoint_every": 2,
            **(train or {}),
        },
        "evaluate": {"prompts": {"source": _prompt_file(folder, "validation.txt", VALIDATION)}},
        "engine": {"device": "cpu"},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section if isinstance(section, dict) else section
    return parse_recipe(values)


def prepare(folder: Path, sdxl: Path) -> Path:
    """Make a run in `folder` with prompts, samples, scores and pairs."""
    settings = recipe(folder, sdxl)
    with Run.open(folder / "run", settings) as run:
        _make(run, "prompts", lambda a: collect(Job(settings, run, (a,))))
        _make(run, "samples", lambda a: make_samples(Job(settings, run, (a,))))
        for reward in settings.rewards:
            _make(run, f"scores/{reward.name}", lambda a: make_scores(Job(settings, run, (a,))))
        _make(run, "pairs", lambda a: pair(Job(settings, run, (a,))))
    return folder / "run"


def copied(prepared: Path, folder: Path) -> Path:
    """A copy of a prepared run to train in."""
    shutil.copytree(prepared, folder)
    return folder


def trained(folder: Path, settings: Recipe) -> dict[str, Any]:
    """Train in the run directory `folder`; return the summary of `train/`."""
    with Run.open(folder) as run:
        if settings.train.validation_prompts is not None and not run.artifact("validation").done:
            _make(run, "validation", lambda a: make_validation(Job(settings, run, (a,))))
        _make(run, "train", lambda a: train(Job(settings, run, (a,))))
        return run.artifact("train").summary


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _make(run, name, stage):
    artifact = run.artifact(name)
    artifact.begin({})
    stage(artifact)


def _prompt_file(folder: Path, name: str, lines: list[str]) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
