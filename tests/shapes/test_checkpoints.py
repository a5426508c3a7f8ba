"""The checkpoints that ship with the package: real layouts, small files, results better than chance."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open
from transformers import AutoTokenizer

from capo.diffusion import load_family
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection, RewardSection
from capo.rewards import load_reward
from capo.shapes.build import drawn_data as data
from capo.shapes.build.tokenizers import clip_tokenizer, question_tokenizer
from capo.shapes.checkpoint_paths import CHECKPOINTS
from capo.shapes.grammar import RELATIONS, draw_specs
from capo.shapes.judge import judge

PROMPTS = [spec.text for spec in draw_specs("test", 4, 0)]
EXAMPLES = 200
CPU = torch.device("cpu")


def test_checkpoints_are_small_and_in_half_precision():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30 * 2**20
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 13
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in weights:
        with safe_open(path, "pt") as tensors:
            found = {str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118
        assert found == {"F16"}, path


def test_checkpoints_record_how_they_were_built():
    origin = json.loads((CHECKPOINTS / "origin.json").read_text())
    assert set(origin) == {"vae", "base", "flow", "preference", "vqa-1", "vqa", "aesthetic", "heldout"}
    assert {part["scale"] for part in origin.values()} == {1.0}


@pytest.mark.parametrize(
    ("folder", "make"),
    [
        ("base/tokenizer", clip_tokenizer),
        ("base/tokenizer_2", clip_tokenizer),
        ("flow/tokenizer", clip_tokenizer),
        ("flow/tokenizer_2", clip_tokenizer),
        ("preference", clip_tokenizer),
        ("heldout", clip_tokenizer),
        ("vqa-1", question_tokenizer),
        ("vqa", question_tokenizer),
    ],
)
def test_checkpoints_use_the_tokenizers_of_the_grammar(folder, make):
    shipped = AutoTokenizer.from_pretrained(CHECKPOINTS / folder)
    assert shipped(PROMPTS).input_ids == make()(PROMPTS).input_ids
    assert shipped.get_vocab() == make().get_vocab()


def test_the_base_gives_the_same_images_through_diffusers_alone(tmp_path):
    noise = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = GenerateSection(num_inference_steps=8, guidance_scale=1.5)
    family = load_family(ModelSection(checkpoint="shapes"), CPU)
    assert family.latent_shape(settings) == (4, 8, 8)
    images = family.decode(family.sample(family.encode(PROMPTS), family.unconditional(), noise, settings))
    # A copy, because reading it must not need the package.
    with quiet():
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            shutil.copytree(CHECKPOINTS / "base", tmp_path / "base"), dtype=torch.float32
        )
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline(PROMPTS, latents=noise, num_inference_steps=8, guidance_scale=1.5).images
    assert [i.tobytes() for i in images] == [i.tobytes() for i in plain]
    assert images[0].size == (32, 32)


def test_the_flow_gives_the_same_images_through_diffusers_alone(tmp_path):
    noise = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = GenerateSection(
        scheduler="FlowMatchEulerDiscreteScheduler", num_inference_steps=8, guidance_scale=2.5
    )
    family = load_family(ModelSection(checkpoint="shapes-flow", max_sequence_length=0), CPU)
    assert family.latent_shape(settings) == (4, 8, 8)
    assert family.left_out == ["text_encoder_3", "tokenizer_3"]
    images = family.decode(family.sample(family.encode(PROMPTS), family.unconditional(), noise, settings))
    with quiet():
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            shutil.copytree(CHECKPOINTS / "flow", tmp_path / "flow"),
            dtype=torch.float32,
            text_encoder_3=None,
            tokenizer_3=None,
        )
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline(
        PROMPTS, latents=noise, num_inference_steps=8, guidance_scale=2.5, max_sequence_length=0
    ).images
    own, theirs = (np.stack([np.asarray(image, int) for image in each]) for each in (images, plain))
    assert np.abs(own - theirs).max() <= 1  # the empty prompt is encoded once, and not once a row
    assert images[0].size == (32, 32)


def test_the_flow_follows_prompts_but_makes_mistakes():
    """The judge accepts most images of simple prompts and some of hard ones."""
    specs = draw_specs("test", 24, 1)
    settings = GenerateSection(
        scheduler="FlowMatchEulerDiscreteScheduler", num_inference_steps=10, guidance_scale=2.5
    )
    family = load_family(ModelSection(checkpoint="shapes-flow", max_sequence_length=0), CPU)
    prompts = [spec.text for spec in specs for _ in range(4)]
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    images = family.decode(family.sample(family.encode(prompts), family.unconditional(), noise, settings))
    right = [
        judge(np.asarray(image), spec.metadata)
        for image, spec in zip(images, [s for s in specs for _ in range(4)], strict=True)
    ]
    assert 0.25 < np.mean(right) < 0.75  # 6% of the images satisfy another, random prompt


def pictures(images):
    return [Image.fromarray(pixels) for pixels in images.permute(0, 2, 3, 1).numpy()]


def score(name, images, prompts):
    return load_reward(RewardSection(name=name), CPU).score(pictures(images), prompts)


# Chance is 0.5 for the shares, 0 for the correlation, with a standard deviation of about 0.04.


def test_the_vqa_reward_prefers_images_that_show_their_prompt():
    given = data.questions(EXAMPLES, 11, "cpu", "test")
    scores = score("shapes-vqa", given.images, given.texts)
    answers = given.answers.numpy().astype(bool)
    assert ((scores >= 0) & (scores <= 1)).all()
    right = (scores > 0.5) == answers
    assert right.mean() > 0.9
    related = [any(relation in text for relation in RELATIONS) for text in given.texts]
    assert right[related].mean() > 0.8
    assert (scores[answers][:, None] > scores[~answers]).mean() > 0.95


@pytest.mark.parametrize("name", ["shapes-preference", "shapes-heldout"])
def test_the_preference_rewards_agree_with_simulated_people(name):
    given = data.preferences(EXAMPLES, 12, "cpu", "test")
    prompts = [text for text in given.texts for _ in range(2)]
    first, second = score(name, given.images.flatten(0, 1), prompts).reshape(-1, 2).T
    labels = given.labels.numpy()
    decided = labels != 0.5
    assert ((first > second) == (labels == 1))[decided].mean() > 0.62


def test_the_aesthetic_reward_agrees_with_people_and_ignores_the_prompt():
    given = data.ratings(EXAMPLES, 13, "cpu", "test")
    scores = score("shapes-aesthetic", given.images, [""] * EXAMPLES)
    assert np.corrcoef(scores, given.ratings)[0, 1] > 0.7
    assert np.abs(scores - given.ratings.numpy()).mean() < 1
