"""Stages that write a few bytes instead of images and weights, to test what runs them.

`python tests/fake_stages.py ARGUMENTS...` is the `capo` command with these stages. The fake
`train` waits while the file named by `CAPO_TEST_WAIT` exists, and prints "waiting".
"""

import importlib
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

VALUES = {
    "name": "tiny",
    "model": {"checkpoint": "shapes"},
    "prompts": {"source": "shapes:train", "count": 4},
    "rewards": [
        {"name": "first"},
        {"name": "second", "comparison": "threshold"},
        {"name": "held-out", "use": "evaluate"},
    ],
    "train": {"beta": 300},
    "evaluate": {"prompts": {"source": "shapes:test", "count": 4}},
}
"""A recipe with nothing that has a default."""

_MEANS = {
    "mean_base": 0.0,
    "mean_tuned": 0.1,
    "mean_difference": {"value": 0.1, "low": 0.0, "high": 0.2, "p": 0.05},
    "sign_test": {"won": 2, "lost": 1, "tied": 1, "p": 1.0},
}
RESULTS = {
    "models": {"base": "shapes", "tuned": "train/best"},
    "prompts": 4,
    "samples_per_prompt": 8,
    "rewards": [
        {
            "name": "first",
            "use": "train",
            "win_rate": 0.5512,
            "low": 0.52,
            "high": 0.58,
            "null_win_rate": 0.5,
            **_MEANS,
        },
        {"name": "held-out", "use": "evaluate", "win_rate": 0.5, "low": 0.4, "high": 0.6, **_MEANS},
    ],
    "training_win_rate": {"value": 0.5512, "low": 0.52, "high": 0.58},
    "judge": {"name": "shapes", "base": 0.4, "tuned": 0.5, "difference": 0.1, "low": 0.02, "high": 0.18},
    "warnings": ["few prompts"],
}

calls: list[str] = []
"""Artifacts made since the list was last cleared."""


def generate(job):
    for shard in range(2):
        if not job.artifact.has(f"shard-{shard}"):
            data = f"{job.recipe.generate.guidance_scale} {shard}".encode()
            job.artifact.write_bytes(f"shard-{shard}", data)
    job.artifact.commit({"images": 2})


def score(job):
    for artifact in job.artifacts:
        data = job.run.artifact("samples").read_bytes("shard-0") + artifact.name.encode()
        artifact.write_bytes("shard-0", data)
        artifact.commit()
        job.seconds[artifact.name] = 0.5


def pair(job):
    job.artifact.write_bytes("pairs.parquet", job.recipe.pairs.selection.encode())
    job.artifact.commit()


def validation(job):
    job.artifact.write_json("base/scores.json", {"seed": job.recipe.seed})
    job.artifact.commit()


def train(job):
    job.artifact.write_json("state.json", {"step": 1})
    if wait := os.environ.get("CAPO_TEST_WAIT"):
        print("waiting", flush=True)
        while Path(wait).exists():
            time.sleep(0.01)
    if job.recipe.train.objective == "dpo":
        raise ValueError("reward 'first': expected 4 scores, got 3")
    job.artifact.write_json("weights.json", job.recipe.train.results())
    job.artifact.commit({"steps": 1})


def baseline(job):
    job.artifact.write_json("judgements.json", {"seed": job.recipe.seed})
    job.artifact.commit()


def evaluate(job):
    job.artifact.write_json("results.json", RESULTS)
    job.artifact.commit()


def benchmark(job):
    job.artifact.write_json("results.json", {})
    job.artifact.commit()


def report(job):
    job.artifact.write_bytes("index.html", (job.recipe.report.title or "").encode())
    job.artifact.commit()


COMMANDS = ("prompts", "generate", "score", "pair", "train", "evaluate", "report")
STAGES = {
    "samples": generate,
    "scores": score,
    "pairs": pair,
    "validation": validation,
    "train": train,
    "baseline": baseline,
    "evaluate": evaluate,
    "benchmarks": benchmark,
    "report": report,
}
"""By artifact; prompts are real."""


def install(set_attribute=setattr):
    """Replace the real stages by the fakes; a test passes monkeypatch's setter."""
    graph = importlib.import_module("capo.pipeline.graph")
    real = graph.steps_of

    def make(stage, job):
        calls.extend(artifact.name for artifact in job.artifacts)
        STAGES[stage](job)

    makers = {stage: partial(make, stage) for stage in STAGES}

    def steps_of(recipe):
        steps = ((step, makers.get(step.artifact.partition("/")[0])) for step in real(recipe))
        # Every artifact of a benchmark is made by a call of its own.
        return [
            step
            if maker is None
            else replace(step, make=partial(maker) if step.stage == "benchmark" else maker)
            for step, maker in steps
        ]

    set_attribute(graph, "steps_of", steps_of)
    set_attribute(graph, "CHECKS", ())
    set_attribute(
        importlib.import_module("capo.rewards.resolve"),
        "reward_identity",
        lambda section: f"weights of {section.name}",
    )
    set_attribute(importlib.import_module("capo.rewards"), "pin_weights", lambda section: False)
    set_attribute(importlib.import_module("capo.diffusion"), "checkpoint_identity", lambda *_: "weights")
    calls.clear()


def write_recipe(path):
    """Write the recipe to `path` and return it."""
    path.write_text(yaml.safe_dump(VALUES))
    return str(path)


if __name__ == "__main__":
    from capo.cli import main

    install()
    main()
