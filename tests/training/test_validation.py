"""Validation of a step: comparison with the base, the judge, and standard errors over prompts."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
import torch

from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.engine.local_executor import LocalExecutor
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import sample_images
from capo.shapes.drawing import draw
from capo.shapes.grammar import spec_of
from capo.shapes.layout import scene_of
from capo.store import Run
from capo.store.step import Job
from capo.training.validation import Validation, validate_base, validation_prompts
from tiny_run import png
from tiny_training import recipe

BASE = [[True, False], [True, True], [False, False]]
POLICY = [[True, True], [True, False], [True, False]]


def settings(folder, sdxl, train=None, **sections):
    """Validation on three prompts with metadata for the judge, with two images per prompt."""
    prompts = {"source": "shapes:validation", "count": 3}
    train = {"validation_prompts": prompts, "validation_samples": 2} | (train or {})
    return recipe(folder, sdxl, train, evaluate={"judge": "shapes"}, **sections)


def put_images(artifact, folder, prompts, right):
    """Write images that satisfy their prompt, or are empty."""
    rng = random.Random(0)
    rows = []
    for prompt, shown in zip(prompts, right, strict=True):
        for sample, each in enumerate(shown):
            pixels = np.full((32, 32, 3), 20, dtype=np.uint8)
            if each:
                pixels = draw([scene_of(spec_of(prompt.metadata), rng)])[0].permute(1, 2, 0).numpy()
            rows.append((prompt.prompt_id, sample, {"bytes": png(pixels), "path": None}))
    ids, samples, images = zip(*rows, strict=True)
    table = {"prompt_id": ids, "sample": pa.array(samples, pa.int32()), "image": images}
    artifact.write_table(f"{folder}/shard-00000.parquet", pa.table(table))


def test_the_judge_is_measured_and_decides_nothing(tmp_path, sdxl):
    asked = settings(tmp_path, sdxl)
    prompts = validation_prompts(asked)
    family = load_family(asked.model, torch.device("cpu"))
    with Run.open(tmp_path / "run") as run:
        base, train = run.artifact("validation"), run.artifact("train")
        for artifact, folder, right in (
            (base, "base", BASE),
            (train, "validation/step-000001", POLICY),
        ):
            artifact.begin({})
            put_images(artifact, folder, prompts, right)
        validate_base(asked, base, LocalExecutor())  # uses the existing images
        compared = Validation(Job(asked, run, (train,)), family, LocalExecutor())
        start, row = compared.run(0), compared.run(1)
    assert (row["judge"], row["judge_base"]) == pytest.approx((4 / 6, 3 / 6))
    # The prompts' differences are 1/2, -1/2, 1/2: their mean, and their deviation 1/√3 over √3.
    assert row["judge_difference"] == pytest.approx(1 / 6)
    assert row["judge_standard_error"] == pytest.approx(1 / 3)
    assert (start["judge"], start["judge_difference"], start["standard_error"]) == (0.5, 0.0, 0.0)
    scores = {
        model: train.run.artifact(name).read_table(f"{folder}/scores/red.parquet")["score"].to_numpy()
        for model, name, folder in (
            ("base", "validation", "base"),
            ("policy", "train", "validation/step-000001"),
        )
    }
    wins = []
    for k in (0, 2, 4):
        pairs = itertools.product(scores["policy"][k : k + 2], scores["base"][k : k + 2])
        wins.append(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    assert row["win_rate/red"] == pytest.approx(np.mean(wins))
    assert row["standard_error/red"] == pytest.approx(np.std(wins, ddof=1) / np.sqrt(3))


@pytest.mark.parametrize(
    ("train", "dtype"),
    [({"lora_rank": 2}, "float32"), ({"adaptation": "full"}, "bfloat16")],
    ids=["lora", "full"],
)
def test_the_base_is_sampled_as_the_reference_of_training_is(tmp_path, sdxl, train, dtype):
    """A policy that has learned nothing makes the same images as the base, bit for bit."""
    asked = settings(tmp_path, sdxl, train, model={"dtype": dtype})
    with Run.open(tmp_path / "run") as run:
        base, other = run.artifact("validation"), run.artifact("train")
        base.begin({})
        validate_base(asked, base, LocalExecutor())
        other.begin({})
        family = load_family(asked.model, torch.device("cpu"))
        policy = Policy(family, asked.train, asked.seed)
        with policy.reference():
            key = ("validation", asked.seed)
            request = ImageRequest(
                prompts=validation_prompts(asked),
                samples=2,
                settings=asked.generate,
                seed_key=key,
                description="again",
            )
            sample_images(family, request, other)
        assert base.read_table("base/shard-00000.parquet") == other.read_table("shard-00000.parquet")
