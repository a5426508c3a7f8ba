"""Every shipped recipe of a real model runs on a tiny checkpoint of its kind, through the real stages."""

import json

import pytest
from PIL import Image

from capo.pairing.pair import pair
from capo.recipe import load_recipe, shipped_recipes
from capo.sampling.collect_prompts import collect
from capo.sampling.generate import make_samples
from capo.scoring.score import make_scores
from capo.store import Run
from capo.store.step import Job
from capo.training.train import train
from diffusion_cases import SHORT

KINDS = {
    "sd15": "sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "sd35": "sd35",
    "flux": "flux-dev",
    "qwen-image": "qwen-image",
    "flux2": "flux2-klein-base",
    "z-image": "z-image",
    "pixart": "pixart",
    "dpo": "sd15",
    "diffusion-dpo": "sd15",
}
SMALLER = [
    "generate.samples_per_prompt=2",
    "generate.num_inference_steps=2",
    "generate.height=32",
    "generate.width=32",
    "train.steps=1",
    "train.global_batch_size=1",
    "train.per_device_batch_size=1",
    "train.validation_prompts=null",
    "engine.device=cpu",
]


def test_every_recipe_has_its_kind():
    real = {name for name in shipped_recipes() if not name.startswith("shapes")}
    # Those of the paper differ from `sdxl` and `sd3` by prompts and rewards, which this test replaces.
    assert KINDS.keys() == {name for name in real if not name.endswith("-paper")}


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_generates_and_trains(name, checkpoint, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    reward = {"name": "red", "source": "tiny_training:redness", "temperature": 0.01}
    places = {
        "model.checkpoint": str(checkpoint(KINDS[name])),
        "model.variant": None,
        "rewards": [reward],
        **{f"model.{field}": value for field, value in SHORT.get(KINDS[name], {}).items()},
    }
    if name == "diffusion-dpo":
        places["images"] = {"source": str(_compared(tmp_path / "people"))}
    else:
        places["prompts"] = {"source": str(tmp_path / "prompts.txt")}
    recipe = load_recipe(name, [*SMALLER, *(f"{key}={json.dumps(value)}" for key, value in places.items())])
    with Run.open(tmp_path / "run", recipe) as run:
        stages = {
            "prompts": collect,
            "samples": make_samples,
            "scores/red": make_scores,
            "pairs": pair,
            "train": train,
        }
        for artifact, stage in stages.items():
            place = run.artifact(artifact)
            place.begin({})
            stage(Job(recipe, run, (place,)))
        row = json.loads((run.path / "train" / "metrics.jsonl").read_text())
        assert row["rewards/margins"] == 0  # at the first step the policy is the reference
        assert row["grad_norm"] > 0
        record = json.loads((run.path / "train" / "best" / "capo.json").read_text())
        assert record["adaptation"] == recipe.train.adaptation


def _compared(folder):
    """Two images of which people prefer the second."""
    folder.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (40, 30), name).save(folder / f"{name}.png")
    pair = {"caption": "a blue circle", "chosen": "blue.png", "rejected": "red.png"}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    return folder
