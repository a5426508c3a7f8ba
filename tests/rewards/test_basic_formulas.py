"""Scores against their formulas, computed from the bare transformers modules."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPForImageClassification,
    CLIPModel,
    LlavaForConditionalGeneration,
    VisionEncoderDecoderModel,
)

import tiny_rewards
from capo import BradleyTerry, PowerRatio
from capo.recipe import RewardSection
from capo.rewards import RewardError, build_comparison, load_reward, reward_identity, score_images
from capo.rewards.models.vqascore import answer_tokens

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def load(source, folder):
    return load_reward(RewardSection(name="r", source=source, checkpoint=str(folder)), "cpu")


def pixel_values(image):
    """CLIP's preprocessing by hand, for images of the model's input size."""
    assert image.size == (tiny_rewards.PIXELS,) * 2
    scaled = (np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(2, 0, 1)).float()[None]


@pytest.fixture(scope="module")
def exact_images():
    rng = np.random.default_rng(1)
    shape = (3, tiny_rewards.PIXELS, tiny_rewards.PIXELS, 3)
    return [Image.fromarray(pixels) for pixels in rng.integers(0, 256, shape, dtype=np.uint8)]


@torch.no_grad()
def test_clip_is_scaled_cosine(checkpoints, exact_images):
    """exp(logit_scale) · <t, i> / (|t| |i|), one unpadded text and image at a time."""
    prompts = ["a red circle", "two blue circle and a red triangle", "green"]
    model = CLIPModel.from_pretrained(checkpoints["clip"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["clip"])
    expected = []
    for image, prompt in zip(exact_images, prompts, strict=True):
        i = model.visual_projection(model.vision_model(pixel_values(image)).pooler_output)[0].double()
        ids = torch.tensor([tokenizer(prompt).input_ids])
        t = model.text_projection(model.text_model(ids).pooler_output)[0].double()
        expected.append(math.exp(model.logit_scale) * float(t @ i) / float(t.norm() * i.norm()))
    np.testing.assert_allclose(
        load("pickscore", checkpoints["clip"]).score(exact_images, prompts), expected, rtol=1e-5
    )


def test_clip_embeds_a_repeated_prompt_once(checkpoints, images, prompts, monkeypatch):
    reward = load("pickscore", checkpoints["clip"])
    rows = []
    embed = reward._model.get_text_features
    monkeypatch.setattr(
        reward._model, "get_text_features", lambda ids, *rest: rows.append(len(ids)) or embed(ids, *rest)
    )
    reward.score(images, prompts)
    assert rows == [5]


def test_clip_cuts_prompts_at_its_length(checkpoints, images):
    reward = load("pickscore", checkpoints["clip"])
    long = "red " * 40
    first, second = reward.score(images[:1] * 2, [long, long + " blue"])
    assert first == pytest.approx(second)


@torch.no_grad()
def test_rating_is_the_raw_output(checkpoints, exact_images):
    """The classifier of CLIP is a linear layer on the mean over the patches of the last hidden state."""
    model = CLIPForImageClassification.from_pretrained(checkpoints["aesthetic"]).eval()
    expected = [
        float(model.classifier(model.vision_model(pixel_values(i)).last_hidden_state[:, 1:].mean(1))[0, 0])
        for i in exact_images
    ]
    reward = load("shapes-aesthetic", checkpoints["aesthetic"])
    np.testing.assert_allclose(reward.score(exact_images, ["a", "b", "c"]), expected, rtol=1e-5)


def test_rating_ignores_the_prompt(checkpoints, images):
    reward = load("shapes-aesthetic", checkpoints["aesthetic"])
    np.testing.assert_array_equal(reward.score(images[:1], ["a"]), reward.score(images[:1], ["a cat"]))


def test_rater_with_two_outputs_is_rejected(tmp_path):
    folder = tiny_rewards.rater(tmp_path, labels=2)
    with pytest.raises(RewardError, match="2 outputs"):
        load("shapes-aesthetic", folder)


@torch.no_grad()
def test_vqa_is_the_softmax_of_the_answer(checkpoints, exact_images):
    """exp(z_yes) / Σ exp(z) at the last position, one unpadded row at a time."""
    prompts = ["a red circle", "two blue circle and a red triangle", "green"]
    model = LlavaForConditionalGeneration.from_pretrained(checkpoints["vqa"]).eval()
    words = {word: i for i, word in enumerate(tiny_rewards.VQA_WORDS.split())}
    expected = []
    for image, prompt in zip(exact_images, prompts, strict=True):
        # 4 patches; the word-level tokenizer keeps `"?` together as one unknown token.
        question = f'Does this figure show " {prompt} "? Please answer yes or no .'
        pieces = ["USER", ":", *["<image>"] * 4, *question.split(), "ASSISTANT", ":"]
        ids = torch.tensor([[words.get(piece, words["<unk>"]) for piece in pieces]])
        logits = model(input_ids=ids, pixel_values=pixel_values(image)).logits[0, -1].double()
        expected.append(float(logits[words["yes"]].exp() / logits.exp().sum()))
    np.testing.assert_allclose(
        load("vqascore", checkpoints["vqa"]).score(exact_images, prompts), expected, rtol=1e-5
    )


def test_vqa_batch_equals_single(checkpoints, images, prompts):
    """Padding rows of different lengths on the left has no effect."""
    reward = load("vqascore", checkpoints["vqa"])
    single = [reward.score([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(reward.score(images, prompts), single, rtol=1e-5, atol=1e-8)


def test_vqa_uses_the_chat_template(tmp_path, images):
    template = (
        "{{ bos_token }} {% for m in messages %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT{% endif %}"
    )
    reward = load("vqascore", tiny_rewards.vqa(tmp_path, chat_template=template))
    question = 'Does this figure show "a red circle"? Please answer yes or no.'
    assert reward._ask("a red circle") == f"<s> <image> {question} ASSISTANT"
    assert 0 < reward.score(images[:1], ["a red circle"])[0] < 1


def test_vqa_with_a_model_that_also_reads_videos(tmp_path, images, prompts):
    """The processor loads without torchvision, and padding does not affect its positions."""
    reward = load("vqascore", tiny_rewards.qwen(tmp_path))
    single = [reward.score([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    assert len(set(single)) == len(single)
    np.testing.assert_allclose(reward.score(images, prompts), single, rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_decoder_vqa_is_the_softmax_of_the_answer(checkpoints, exact_images):
    """The softmax at the last token of the question, one unpadded row at a time."""
    prompts = ["a red circle", "two blue circle and a red triangle", "green"]
    model = VisionEncoderDecoderModel.from_pretrained(checkpoints["decoder"]).eval()
    words = {word: i for i, word in enumerate(tiny_rewards.VQA_WORDS.split())}
    expected = []
    for image, prompt in zip(exact_images, prompts, strict=True):
        pieces = f'Does this figure show " {prompt} "? Please answer yes or no .'.split()
        ids = torch.tensor([[words.get(piece, words["<unk>"]) for piece in pieces]])
        logits = model(pixel_values=pixel_values(image), decoder_input_ids=ids).logits[0, -1].double()
        expected.append(float(logits[words["yes"]].exp() / logits.exp().sum()))
    np.testing.assert_allclose(
        load("shapes-vqa", checkpoints["decoder"]).score(exact_images, prompts), expected, rtol=1e-5
    )


def test_decoder_vqa_reports_questions_it_cuts(checkpoints, exact_images):
    """The decoder reads 32 tokens, 12 of which belong to the question around the prompt."""
    reward = load("shapes-vqa", checkpoints["decoder"])
    fits, longer = "red " * 20, "red " * 21
    assert reward.truncated(["a", fits, longer, longer + "blue"]) == [False, False, True, True]
    scored = score_images(reward, exact_images[:2], ["a", longer], 2)
    assert [s.truncated for s in scored] == [False, True]
    # Whether prompts are cut is reported but is not part of the identity.
    assert reward_identity(RewardSection(name="shapes-vqa")).split()[:-1] == ["DecoderVqaScore"]
    # Only the end is cut: text after the last token read has no effect.
    first, second = reward.score(exact_images[:1] * 2, ["red " * 40, "red " * 40 + "blue"])
    assert first == second


def test_vqa_rejects_a_prompt_with_the_image_token(checkpoints, images):
    reward = load("vqascore", checkpoints["vqa"])
    with pytest.raises(ValueError, match="image token '<image>'"):
        reward.score(images[:1], ["a <image> of a cat"])


class SpacedTokenizer:
    """Splits text into pieces that start at a space, like byte-level tokenizers."""

    unk_token_id = 0
    name_or_path = "spaced"

    def __init__(self, *known):
        self.known = {piece: i + 1 for i, piece in enumerate(known)}

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        pieces = text.replace("\n", "\0\n\0").replace(" ", "\0 ").replace(":", "\0:\0").split("\0")

        class Encoded:
            input_ids = tuple(self.known.get(piece, 0) for piece in pieces if piece)

        return Encoded


@pytest.mark.parametrize(
    ("known", "text", "answer"),
    [
        ((":", " Yes", "Yes", "yes"), "ASSISTANT:", " Yes"),
        ((":", "Yes", "yes"), "ASSISTANT:", "Yes"),
        ((":", " yes", "yes"), "ASSISTANT:", " yes"),
        (("\n", " Yes", "Yes"), "assistant\n", "Yes"),
    ],
)
def test_answer_is_the_token_that_continues_the_text(known, text, answer):
    tokenizer = SpacedTokenizer(*known)
    assert answer_tokens(tokenizer, text) == [tokenizer.known[answer]]


def test_a_tokenizer_without_yes_is_rejected():
    with pytest.raises(RewardError, match="no single token for Yes"):
        answer_tokens(SpacedTokenizer(":", "No"), "ASSISTANT:")


@pytest.mark.parametrize(
    ("source", "comparison"),
    [
        ("pickscore", BradleyTerry(1.0)),
        ("shapes-preference", BradleyTerry(1.0)),
        ("shapes-heldout", BradleyTerry(1.0)),
        ("vqascore", PowerRatio(1.0)),
        ("shapes-vqa", PowerRatio(1.0)),
        ("shapes-aesthetic", BradleyTerry(1.0)),
    ],
)
def test_declared_comparisons(source, comparison):
    assert build_comparison(RewardSection(name=source)) == comparison
