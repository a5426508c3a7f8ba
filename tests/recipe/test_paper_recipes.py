"""The recipes with the paper's settings: every setting, and prompts from a Hub that is served here."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import loopback_hub
from capo.prompts import PromptsError, load_prompts
from capo.recipe import load_recipe
from capo.rewards.catalog import CATALOG

SETTINGS = {
    # setting (App. B): field, SDXL, SD3-M
    "prompts": ("prompts.count", 100_000, 100_000),
    "N": ("generate.samples_per_prompt", 16, 16),
    "sampler": ("generate.scheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"),
    "sampling steps": ("generate.num_inference_steps", 50, 50),
    "guidance": ("generate.guidance_scale", 7.5, 5.0),
    "shift": ("generate.shift", None, 3.0),
    "selection": ("pairs.selection", "frontier", "frontier"),
    "pairs below a margin": ("pairs.min_margin", None, None),
    "objective": ("train.objective", "capo", "capo"),
    "β, the middle of three": ("train.beta", 500, 50),
    "weighting": ("train.weighting", "sigmoid", "sigmoid"),
    "b": ("train.weighting_bias", 1.5, -1.0),
    "noise": ("train.noise", "independent", "independent"),
    "optimizer": ("train.optimizer", "adamw", "adamw"),
    "weight decay": ("train.weight_decay", 0, 0),
    "learning rate": ("train.learning_rate", 1e-5, 1.5e-5),
    "warm-up": ("train.warmup_steps", 1000, 1000),
    "batch": ("train.global_batch_size", 256, 256),
    "steps": ("train.steps", 10_000, 5_000),
    "validation every": ("train.validate_every", 1000, 1000),
    "trained weights": ("train.adaptation", "full", "full"),
}
REWARDS = {
    "mps": ("bradley-terry", "temperature", 1),
    "vqascore-clip-flant5-xxl": ("power-ratio", "exponent", 1),
    "vila": ("bradley-terry", "temperature", 1),
}
PARTI = [f'prompt {n} with a "sign' for n in range(1632)]


@pytest.fixture(params=[("sdxl-paper", 1), ("sd3-paper", 2)], ids=lambda param: param[0])
def both(request):
    name, column = request.param
    return load_recipe(name), column


def test_settings_are_those_of_the_paper(both):
    recipe, column = both
    for setting, row in SETTINGS.items():
        value = recipe
        for part in row[0].split("."):
            value = getattr(value, part)
        assert value == row[column], setting
    sampling = recipe.train.time_sampling  # the default of a DDPM schedule is uniform
    assert sampling == (None if column == 1 else "uniform-logsnr")


def test_rewards_and_comparisons_are_those_of_the_paper(both):
    recipe, _ = both
    assert [reward.name for reward in recipe.rewards] == list(REWARDS)
    for reward in recipe.rewards:
        comparison, parameter, value = REWARDS[reward.name]
        assert (reward.comparison, getattr(reward, parameter)) == (comparison, value)
        assert (reward.weight, reward.use, reward.source) == (1, "train", None)
        assert reward.name in CATALOG


def test_one_option_replaces_vila_or_clip_flant5():
    recipe = load_recipe("sdxl-paper", ["rewards.2.name=topiq-iaa", "rewards.1.name=vqascore-qwen3-vl"])
    names = [reward.name for reward in recipe.rewards]
    assert names == ["mps", "vqascore-qwen3-vl", "topiq-iaa"]
    assert set(names) <= CATALOG.keys()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_training_prompts_are_those_of_diffusiondb_that_are_likely_safe(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    scores = np.linspace(0, 1, 50, dtype=np.float32)
    table = {
        "image_name": [f"{n}.png" for n in range(50)],
        "prompt": [f"a castle, no. {n // 2}" for n in range(50)],
        "seed": pa.array(range(50), pa.uint32()),
        "image_nsfw": pa.array(scores[::-1]),
        "prompt_nsfw": pa.array(scores),
    }
    pq.write_table(pa.table(table), folder / "metadata.parquet")
    section = load_recipe("sdxl-paper", ["prompts.count=null"]).prompts
    with loopback_hub.serving(folder, "poloclub/diffusiondb") as server:
        loopback_hub.aim(monkeypatch, server.url)
        texts = [prompt.text for prompt in load_prompts(section, 0)]
    assert texts == [f"a castle, no. {n}" for n in range(5)]  # 0.2 is at row 9.8


def test_validation_and_evaluation_share_partiprompts_between_them(tmp_path, monkeypatch, cache):
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [f"{text}\tAnimals\tBasic\t" for text in PARTI]
    (folder / "PartiPrompts.tsv").write_text("\n".join(["Prompt\tCategory\tChallenge\tNote", *rows]))
    recipe = load_recipe("sdxl-paper")
    commit = recipe.evaluate.prompts.revision
    with loopback_hub.serving(folder, "nateraw/parti-prompts", revisions=("main", commit)) as server:
        loopback_hub.commit(server, folder, commit)
        loopback_hub.aim(monkeypatch, server.url)
        validation = load_prompts(recipe.train.validation_prompts, recipe.seed)
        evaluation = load_prompts(recipe.evaluate.prompts, recipe.seed)
        seeds = load_prompts(recipe.train.validation_prompts, recipe.seed + 1)
        server.files = None  # what is here is not asked for again
        assert load_prompts(recipe.evaluate.prompts, recipe.seed + 2)
    assert (len(validation), len(evaluation)) == (200, 1432)
    texts = [{prompt.text for prompt in prompts} for prompts in (validation, evaluation)]
    assert texts[0].isdisjoint(texts[1])
    assert texts[0] | texts[1] == set(PARTI)
    assert validation[0].category == "Animals"
    assert texts[0] != {prompt.text for prompt in seeds}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"skip": 5}, "count is 1 after evaluate.prompts.skip 5"),
        ({"skip": 2, "count": 4}, "count is 4 after evaluate.prompts.skip 2"),
        ({"source": "dpg:hub:owner/name"}, "name a folder"),
        ({"source": "partiprompts:hub:owner"}, "hub:owner/name"),
        ({"split": "train"}, "evaluate.prompts.split"),
    ],
)
def test_faults_are_named(fields, message, tmp_path, monkeypatch, cache):
    (tmp_path / "five.tsv").write_text("Prompt\tCategory\n" + "".join(f"p{n}\tx\n" for n in range(5)))
    section = load_recipe("sdxl-paper").evaluate.prompts
    values = {"source": f"partiprompts:{tmp_path}/five.tsv", "revision": None, "skip": None, "count": None}
    section = section.model_copy(update=values | fields)
    with pytest.raises(PromptsError, match=message):
        load_prompts(section, 0, "evaluate.prompts")
