"""Evaluations of models that were not trained in the run: policies, LoRAs, whole models, image folders."""

import json
import shutil

import numpy as np
import pytest
import torch

import tiny_rewards
import tiny_run
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.engine.device import select_device
from capo.evaluation.baseline import make_baseline
from capo.evaluation.candidates import Candidate, check_candidates, find_candidate
from capo.evaluation.evaluate import _truncated, evaluate
from capo.pipeline.graph import steps_of
from capo.pretrained.model_loading import quiet
from capo.prompts import make_prompt
from capo.rewards.rgb_images import decode_image
from capo.store import Run
from capo.store.step import Job

PROMPTS, SAMPLES = ("a red circle", "three", "blue"), 2


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def recipe(sdxl, prompts_file):
    def build(**sections):
        evaluation = {"prompts": {"source": str(prompts_file)}, "samples_per_prompt": SAMPLES}
        return tiny_run.recipe(
            [{"name": "red", "source": "function_rewards:redness"}],
            prompts_file,
            model={"checkpoint": str(sdxl)},
            generate={"num_inference_steps": 2, "shard_prompts": 2},
            train={"lora_rank": 2},
            evaluate=evaluation | sections,
        )

    return build


@pytest.fixture(scope="module")
def policy(recipe, tmp_path_factory):
    """A policy folder that differs visibly from its base."""
    settings = recipe()
    made = Policy(load_family(settings.model, select_device(settings.engine)), settings.train, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("policy") / "best"
    folder.mkdir()
    with quiet():
        base = find_candidate("evaluate.policy", settings.model.checkpoint).identity
        made.save(folder, {"step": 3, "base": base})
    return folder


def run_both(path, recipe):
    with Run.open(path) as run:
        for stage, name in ((make_baseline, "baseline"), (evaluate, "evaluate")):
            artifact = run.artifact(name)
            artifact.begin({})
            stage(Job(recipe, run, (artifact,)))
    return run


def found(run):
    return run.artifact("evaluate").read_json("results.json")


def pixels(run, model):
    """By prompt and sample."""
    artifact = run.artifact("evaluate" if model == "tuned" else "baseline")
    return {
        (row["prompt_id"], row["sample"]): np.asarray(decode_image(row["image"]["bytes"]))
        for name in artifact.files()
        if name.startswith(f"images/{model}/")
        for row in artifact.read_table(name).to_pylist()
    }


def same_pixels(first, second):
    return first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)


@pytest.fixture(scope="module")
def of_policy(recipe, policy, tmp_path_factory):
    return run_both(tmp_path_factory.mktemp("runs") / "policy", recipe(policy=str(policy)))


def test_a_policy_against_the_base(of_policy, policy, recipe):
    results = found(of_policy)
    assert results["models"] == {"base": recipe().model.checkpoint, "tuned": str(policy)}
    assert results["policy"] == {"step": 3, "adaptation": "lora"}
    assert not same_pixels(pixels(of_policy, "base"), pixels(of_policy, "tuned"))


def test_a_plain_lora_equals_the_policy_without_its_record(of_policy, policy, recipe, tmp_path):
    """A folder and a file make the same images as the policy, so no comparison is lost."""
    lora = shutil.copytree(policy, tmp_path / "lora")
    (lora / "capo.json").unlink()
    file = shutil.copy(lora / "pytorch_lora_weights.safetensors", tmp_path / "style.safetensors")
    run = run_both(tmp_path / "run", recipe(policy=str(lora), against=str(file)))
    assert same_pixels(pixels(run, "tuned"), pixels(of_policy, "tuned"))
    assert same_pixels(pixels(run, "base"), pixels(of_policy, "tuned"))
    (red,) = found(run)["rewards"]
    assert (red["win_rate"], red["same_seed"]["win_rate"]) == (0.5, 0.5)
    # Without any variation there is no interval.
    assert red["mean_difference"] == {"value": 0.0, "low": None, "high": None, "p": 1.0}


def test_a_whole_model_against_itself(recipe, sdxl, tmp_path):
    run = run_both(tmp_path / "run", recipe(policy=str(sdxl)))
    assert same_pixels(pixels(run, "tuned"), pixels(run, "base"))
    assert not same_pixels(pixels(run, "null"), pixels(run, "base"))
    assert found(run)["rewards"][0]["sign_test"] == {"won": 0, "lost": 0, "tied": 3, "p": 1.0}


def write_images(folder, run, model, name_of, samples=SAMPLES):
    rows = run.artifact("baseline").read_table("prompts.parquet").to_pylist()
    shown = pixels(run, model)
    for number, row in enumerate(rows):
        place = folder / name_of(number, row)
        place.mkdir(parents=True)
        for sample in range(samples):
            (place / f"{sample:02d}.png").write_bytes(tiny_run.png(shown[row["prompt_id"], sample]))
    return str(folder)


NAMES = {
    "numbers": lambda number, row: f"{number:05d}",
    "ids": lambda number, row: row["prompt_id"],
    "texts": lambda number, row: row["text"],
}


@pytest.mark.parametrize("naming", NAMES)
def test_folders_of_images_give_the_numbers_of_their_models(of_policy, recipe, tmp_path, naming):
    ours = write_images(tmp_path / "ours", of_policy, "tuned", NAMES[naming])
    theirs = write_images(tmp_path / "theirs", of_policy, "base", NAMES["ids"])
    run = run_both(tmp_path / "run", recipe(policy=ours, against=theirs))
    (given,), (made,) = found(run)["rewards"], found(of_policy)["rewards"]
    for key in ("win_rate", "low", "high", "mean_base", "mean_tuned", "sign_test", "power"):
        assert given[key] == made[key]
    assert "same_seed" not in given  # the noise they started from is unknown
    assert "null_win_rate" not in given
    assert found(run)["models"] == {"base": theirs, "tuned": ours}


def test_images_that_do_not_fit_are_named(of_policy, recipe, tmp_path):
    few = write_images(tmp_path / "few", of_policy, "base", NAMES["numbers"], samples=1)
    with pytest.raises(
        ValueError, match=r"few has 1 images of prompt 0, 'a red circle'.*evaluate.samples_per_prompt is 2"
    ):
        run_both(tmp_path / "a", recipe(against=few))
    assert not (tmp_path / "a" / "baseline" / "images").exists()
    torn = write_images(tmp_path / "torn", of_policy, "base", NAMES["numbers"])
    (tmp_path / "torn/00001/01.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"00001/01.png: not a readable image"):
        run_both(tmp_path / "b", recipe(against=torn))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("run/train/checkpoints/step-000004", r"evaluate.policy: .*is a checkpoint.*run/train/best"),
        ("empty", r"evaluate.policy: .*no images with captions"),
        ("other", r"evaluate.policy: .*0 images of prompt 0, 'a red circle'"),
    ],
)
def test_folders_that_cannot_be_evaluated_are_rejected_before_the_base_samples(
    recipe, tmp_path, place, message
):
    (tmp_path / place).mkdir(parents=True)
    if place == "other":
        (tmp_path / place / "an unknown prompt").mkdir()
        (tmp_path / place / "an unknown prompt" / "0.png").write_bytes(b"not opened")
    settings = recipe(policy=str(tmp_path / place))
    with pytest.raises(ValueError, match=message):
        check_candidates(settings)
    with pytest.raises(ValueError, match=message):
        run_both(tmp_path / "new", settings)
    assert not (tmp_path / "new" / "baseline" / "images").exists()


def test_an_unknown_kind_of_candidate_is_rejected(tmp_path, policy, recipe):
    with pytest.raises(ValueError, match=r"evaluate.against: nowhere is none of these"):
        find_candidate("evaluate.against", "nowhere")
    text = tmp_path / "notes.txt"
    text.write_text("words")
    with pytest.raises(ValueError, match="is none of these"):
        find_candidate("evaluate.policy", str(text))
    other = shutil.copytree(policy, tmp_path / "other")
    (other / "capo.json").write_text('{"adaptation": "lora", "base": "blake2b:other"}')
    with pytest.raises(ValueError, match=r"was tuned from another model \(blake2b:other\)"):
        run_both(tmp_path / "run", recipe(policy=str(other)))


def test_a_folder_that_peft_saved_is_an_adapter_of_the_denoiser(policy, recipe, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(policy / "pytorch_lora_weights.safetensors")
    renamed = {name.replace("unet.", "base_model.model."): tensor for name, tensor in weights.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    rank = next(len(tensor) for name, tensor in weights.items() if "lora_A" in name)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["to_q"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    found = find_candidate("evaluate.policy", str(tmp_path))
    found.check(recipe().model)
    settings["auto_mapping"] = {"base_model_class": "CLIPTextModel", "parent_library": "transformers"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"evaluate.policy: .*only text encoders"):
        found.check(recipe().model)


def test_a_lora_of_another_model_is_rejected(policy, recipe, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(policy / "pytorch_lora_weights.safetensors")
    save_file(
        {name.replace("unet.", "transformer."): tensor for name, tensor in weights.items()},
        tmp_path / "other.safetensors",
    )
    with pytest.raises(ValueError, match=r"evaluate.policy: .*other.safetensors .*adapts modules"):
        run_both(tmp_path / "run", recipe(policy=str(tmp_path / "other.safetensors")))
    assert not (tmp_path / "run" / "baseline" / "images").exists(), "rejected before any image is made"


def test_changed_contents_make_only_their_side_stale(recipe, policy, tmp_path):
    """The baseline depends on the opponent (`against`) and not on the evaluated policy."""
    copy = shutil.copytree(policy, tmp_path / "copy")
    settings = recipe(policy=str(policy), against=str(copy))

    def inputs():
        return {step.artifact: step.inputs for step in steps_of(settings)}

    before = inputs()
    (copy / "capo.json").write_text((policy / "capo.json").read_text() + "\n")
    after = inputs()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"baseline", "report"}
    field = "evaluate.against.content"
    assert before["baseline"][field] != after["baseline"][field]
    assert "evaluate.policy" not in before["baseline"]
    assert before["evaluate"]["evaluate.policy.content"] == before["baseline"][field]


def test_diversity_is_measured_too(recipe, policy, tmp_path, of_policy):
    clip = tiny_rewards.clip(tmp_path / "clip")
    settings = recipe(policy=str(policy), embedder=str(clip))
    run = run_both(tmp_path / "run", settings)
    diversity = found(run)["diversity"]
    assert diversity["embedder"] == str(clip)
    table = run.artifact("evaluate").read_table("diversity.parquet").to_pydict()
    assert set(table) == {"prompt_id", "base", "tuned", "null"}
    assert diversity["tuned"] == pytest.approx(np.mean(table["tuned"]))
    step = next(step for step in steps_of(settings) if step.artifact == "evaluate")
    assert "evaluate.embedder.content" in step.inputs


def test_prompts_that_the_model_cannot_read_to_their_end_are_counted(recipe):
    settings = recipe()
    prompts = [make_prompt("a red cat"), make_prompt("a red cat " * 20)]
    made, existing = Candidate(name="a", identity="a"), Candidate(name="b", identity="b", whole_model=True)
    assert _truncated(settings, prompts, made, existing) == 1
    assert _truncated(settings, prompts[:1], made) == 0
    assert _truncated(settings, prompts, existing, existing) == 0
