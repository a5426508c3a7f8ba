"""Stages that write a few bytes instead of images and weights, to test what runs them.

`python tests/fake_stages.py ARGUMENTS...` is the `capo` command with these stages. The fake
`train` waits while there is a file named by `CAPO_TEST_WAIT`, and says so on stdout.
"""

import importlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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

RESULTS = {
    "models": {"base": "shapes", "tuned": "train/best"},
    "prompts": 4,
    "rewards": [
        {
            "name": "first",
            "use": "train",
            "win_rate": 0.5512,
            "low": 0.52,
            "high": 0.58,
            "null_win_rate": 0.5,
        },
        {"name": "held-out", "use": "evaluate", "win_rate": 0.5, "low": 0.4, "high": 0.6},
    ],
    "judge": {"name": "shapes", "base": 0.4, "tuned": 0.5, "difference": 0.1, "low": 0.02, "high": 0.18},
    "warnings": ["few prompts"],
}

calls: list[str] = []
"""Artifacts made since the list was last cleared."""


def generate(recipe, run, artifact):
    calls.append(artifact.name)
    for shard in range(2):
        if not artifact.has(f"shard-{shard}"):
            artifact.write_bytes(f"shard-{shard}", f"{recipe.generate.guidance_scale} {shard}".encode())
    artifact.commit({"images": 2})


def score(recipe, run, work):
    for artifact, reward in work:
        calls.append(artifact.name)
        data = run.artifact("samples").read_bytes("shard-0") + reward.name.encode()
        artifact.write_bytes("shard-0", data)
        artifact.commit()
    return [0.5] * len(work)


def pair(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_bytes("pairs.parquet", recipe.pairs.selection.encode())
    artifact.commit()


def validation(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_json("base/scores.json", {"seed": recipe.seed})
    artifact.commit()


def train(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_json("state.json", {"step": 1})
    if wait := os.environ.get("CAPO_TEST_WAIT"):
        print("waiting", flush=True)
        while Path(wait).exists():
            time.sleep(0.01)
    if recipe.train.objective == "dpo":
        raise ValueError("reward 'first': expected 4 scores, got 3")
    artifact.write_json("weights.json", recipe.train.results())
    artifact.commit({"steps": 1})


def baseline(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_json("judgements.json", {"seed": recipe.seed})
    artifact.commit()


def evaluate(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_json("results.json", RESULTS)
    artifact.commit()


def report(recipe, run, artifact):
    calls.append(artifact.name)
    artifact.write_bytes("index.html", (recipe.report.title or "").encode())
    artifact.commit()


STAGES = (generate, score, pair, validation, train, baseline, evaluate, report)


def install(set_item=dict.__setitem__, set_attribute=setattr):
    """Put the fakes in the place of the real stages; a test passes monkeypatch's setters."""
    for stage in STAGES:
        fake = SimpleNamespace(**{stage.__name__: stage})
        set_item(sys.modules, f"capo.stages.{stage.__name__}", fake)
    rewards = importlib.import_module("capo.rewards")
    set_attribute(rewards, "reward_identity", lambda section: f"weights of {section.name}")
    set_attribute(rewards, "settle_weights", lambda section: False)
    set_attribute(importlib.import_module("capo.diffusion"), "checkpoint_identity", lambda *_: "weights")
    calls.clear()


def write_recipe(path):
    """The recipe as a file, by its path."""
    path.write_text(yaml.safe_dump(VALUES))
    return str(path)


if __name__ == "__main__":
    from capo.cli import main

    install()
    main()
