"""Scores of the CLIP rewards against their formulas, computed from released weight names and bare tensors."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import conv2d, gelu, layer_norm, multi_head_attention_forward
from transformers import AutoTokenizer, CLIPModel, SiglipModel

import tiny_clip_rewards as tiny_clip
import tiny_rewards
from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.rewards import build_comparison, load_reward, reward_identity
from capo.rewards.models.hpsv2 import letterbox

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
PROMPTS = ["a red circle", "two blue triangle and a dog", "green"]
SIZE = tiny_rewards.PIXELS


def load(source, checkpoint, **options):
    return load_reward(
        RewardSection(name="r", source=source, checkpoint=str(checkpoint), options=options), "cpu"
    )


@pytest.fixture(scope="module")
def squares():
    """Three images of the model's input size."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def normalized(image):
    """[1, 3, H, W]."""
    return torch.from_numpy(((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)).float()[None]


def cosine(a, b):
    return float(a @ b) / float(a.norm() * b.norm())


# HPSv2, from open_clip names.


def open_clip_blocks(weights, side, x, mask):
    """Pre-norm transformer blocks with GELU; `x` [tokens, 1, width]."""
    for layer in range(tiny_clip.LAYERS):
        w = {
            k.removeprefix(f"{side}.resblocks.{layer}."): t
            for k, t in weights.items()
            if k.startswith(f"{side}.resblocks.{layer}.")
        }
        h = layer_norm(x, (tiny_clip.WIDTH,), w["ln_1.weight"], w["ln_1.bias"])
        attended, _ = multi_head_attention_forward(
            h, h, h, tiny_clip.WIDTH, tiny_clip.HEADS, w["attn.in_proj_weight"], w["attn.in_proj_bias"],
            None, None, False, 0.0, w["attn.out_proj.weight"], w["attn.out_proj.bias"], attn_mask=mask,
        )  # fmt: skip
        x = x + attended
        h = layer_norm(x, (tiny_clip.WIDTH,), w["ln_2.weight"], w["ln_2.bias"])
        h = gelu(h @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"])
        x = x + h @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
    return x


def open_clip_image(w, pixels):
    patches = conv2d(pixels, w["visual.conv1.weight"], stride=tiny_clip.PATCH).flatten(2)[0].T
    x = torch.cat((w["visual.class_embedding"][None], patches)) + w["visual.positional_embedding"]
    x = layer_norm(x, (tiny_clip.WIDTH,), w["visual.ln_pre.weight"], w["visual.ln_pre.bias"])
    x = open_clip_blocks(w, "visual.transformer", x[:, None], None)[0, 0]
    return (
        layer_norm(x, (tiny_clip.WIDTH,), w["visual.ln_post.weight"], w["visual.ln_post.bias"])
        @ w["visual.proj"]
    )


def open_clip_text(w, ids):
    """open_clip pads with 0, uses a causal mask, and reads at the highest token id, the end token."""
    ids = torch.tensor(ids + [0] * (tiny_clip.CONTEXT - len(ids)))
    x = w["token_embedding.weight"][ids] + w["positional_embedding"]
    mask = torch.full((tiny_clip.CONTEXT, tiny_clip.CONTEXT), -torch.inf).triu(1)
    x = open_clip_blocks(w, "transformer", x[:, None], mask)[:, 0]
    x = layer_norm(x, (tiny_clip.WIDTH,), w["ln_final.weight"], w["ln_final.bias"])
    return x[ids.argmax()] @ w["text_projection"]


@pytest.mark.parametrize("prefix", ["", "model.", "wrapped in half precision"])
def test_hpsv2_is_the_cosine(tmp_path, squares, prefix):
    folder = tiny_clip.open_clip(tmp_path, "model." if prefix == "model." else "")
    w = {k.removeprefix("model."): t for k, t in load_file(folder / "model.safetensors").items()}
    reward = load("hpsv2", folder)
    if prefix.startswith("wrapped"):  # like the official file
        w = {k: t.half().float() for k, t in w.items()}
        (folder / "model.safetensors").unlink()
        torch.save({"state_dict": {k: t.half() for k, t in w.items()}}, tmp_path / "HPS_v2_compressed.pt")
        from capo.rewards.models.hpsv2 import HpsV2

        reward = HpsV2("r", str(tmp_path / "HPS_v2_compressed.pt"), "cpu", str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [
        cosine(open_clip_image(w, normalized(image)), open_clip_text(w, tokenizer(prompt).input_ids))
        for image, prompt in zip(squares, PROMPTS, strict=True)
    ]
    np.testing.assert_allclose(reward.score(squares, PROMPTS), expected, atol=2e-6)


def keys_cubic(distance):
    """The cubic convolution kernel (Keys 1981) with a = -3/4."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def shrink_rows(values, size, antialias):
    """Resample to [size, ...]: rows at the centers of `size` equal parts. Antialiasing widens the kernel."""
    ratio = len(values) / size
    wide = ratio if antialias else 1.0
    rows = []
    for k in range(size):
        center = (k + 0.5) * ratio - 0.5
        at = range(math.floor(center - 2 * wide), math.ceil(center + 2 * wide) + 1)
        if antialias:  # Pillow's kernel, a = -1/2, over existing rows only
            at = [i for i in at if 0 <= i < len(values)]
            d = np.array([abs(i - center) / wide for i in at])
            inner, outer = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            weight = np.where(d <= 1, inner, np.where(d < 2, outer, 0))
        else:
            weight = np.array([keys_cubic(i - center) for i in at])
        edge = [values[min(max(i, 0), len(values) - 1)] for i in at]
        rows.append(sum(w * row for w, row in zip(weight / weight.sum(), edge, strict=True)))
    return np.array(rows)


@pytest.mark.parametrize("antialias", [False, True])
def test_hpsv2_letterboxes(antialias):
    """24 x 12 becomes 16 x 8 with 4 black rows on both sides, before normalization."""
    pixels = np.random.default_rng(2).integers(0, 256, (24, 12, 3), dtype=np.uint8)
    small = shrink_rows(pixels / 255, 16, antialias)
    small = shrink_rows(small.transpose(1, 0, 2), 8, antialias).transpose(1, 0, 2)
    whole = np.zeros((16, 16, 3))
    whole[:, 4:12] = small
    expected = ((whole - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(letterbox(Image.fromarray(pixels), 16, antialias), expected, atol=1e-5)


# CLIPScore.


@pytest.mark.parametrize(
    ("convention", "formula", "temperature"),
    [
        ("cosine", lambda c: c, 0.01),
        ("scaled", lambda c: 100 * c, 1.0),
        ("clipped", lambda c: 2.5 * max(c, 0), 0.025),
    ],
)
@torch.no_grad()
def test_clipscore_conventions(tmp_path, squares, convention, formula, temperature):
    folder = tiny_clip.tower(tmp_path)
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = ["a red circle", "zebra", "green"]
    cosines = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt).input_ids])
        i = model.visual_projection(model.vision_model(normalized(squares[0])).pooler_output)[0].double()
        cosines.append(cosine(i, model.text_projection(model.text_model(ids).pooler_output)[0].double()))
    assert min(cosines) < 0 < max(cosines)
    section = RewardSection(
        name="r", source="clipscore", checkpoint=str(folder), options={"convention": convention}
    )
    scores = load_reward(section, "cpu").score(squares[:1] * 3, prompts)
    np.testing.assert_allclose(scores, [formula(c) for c in cosines], atol=1e-4)
    assert build_comparison(section) == BradleyTerry(temperature)
    assert f'"convention": "{convention}"' in reward_identity(section)


# MPS.


def mps_layer(w, n, x, words, relevant):
    """One layer over patches `x` [P, d], in float64, with 2 heads of width 4 that share one key and value."""
    weight = {k.removeprefix(f"layers.{n}."): t for k, t in w.items() if k.startswith(f"layers.{n}.")}

    def norm(x, block):
        return layer_norm(x, (tiny_clip.WIDTH,), weight[f"{block}.fn.norm.weight"])

    def swiglu(x):
        value, gate = x.chunk(2, -1)
        return gate / (1 + (-gate).exp()) * value

    def attend(q, k, v, allowed):
        logits = (q @ k.T / math.sqrt(4)).masked_fill(~allowed, -torch.inf).exp()
        return logits / logits.sum(-1, keepdim=True) @ v

    h = norm(x, 0)
    k, v = (words @ weight["0.fn.to_kv.weight"].T).chunk(2, -1)
    q = h @ weight["0.fn.to_q.weight"].T
    heads = torch.cat([attend(q[:, :4], k, v, relevant), attend(q[:, 4:], k, v, relevant)], -1)
    ff = swiglu(h @ weight["0.fn.ff.0.weight"].T) @ weight["0.fn.ff.2.weight"].T
    x = x + heads @ weight["0.fn.to_out.weight"].T + ff

    q, k, v, hidden = (norm(x, 1) @ weight["1.fn.fused_attn_ff_proj.weight"].T).split([8, 4, 4, 48], -1)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.01])
    turn = torch.polar(torch.ones_like(angles), angles)  # theta 10000: speeds 1 and 10000^(-1/2)

    def rotate(y):
        turned = torch.complex(y[:, :2], y[:, 2:]) * turn
        return torch.cat((turned.real, turned.imag), -1)

    everywhere = torch.ones(len(x), dtype=torch.bool)
    heads = [attend(rotate(q[:, i : i + 4]), rotate(k), v, everywhere) for i in (0, 4)]
    return (
        x
        + torch.cat(heads, -1) @ weight["1.fn.attn_out.weight"].T
        + swiglu(hidden) @ weight["1.fn.ff_out.1.weight"].T
    )


@pytest.mark.parametrize(("prefix", "threshold"), [("mps.", 0.01), ("", 0.8)])
@torch.no_grad()
def test_mps_is_the_scaled_cosine_after_the_cross_model(tmp_path, squares, prefix, threshold):
    folder = tiny_clip.mps(tmp_path, prefix)
    w = {k.removeprefix(prefix): t.double() for k, t in load_file(folder / "model.safetensors").items()}
    cross = {k.removeprefix("cross_model."): t for k, t in w.items() if k.startswith("cross_model.")}
    clip = CLIPModel.from_pretrained(tiny_clip.tower(tmp_path / "clip")).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    condition = (
        "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
        "instance, texture, quantity, attributes, position, number, location, word, things."
    )

    def read(text):
        ids = tokenizer(text, max_length=16, padding="max_length", truncation=True).input_ids
        output = clip.text_model(torch.tensor([ids]))
        return clip.text_projection(output.last_hidden_state)[0], clip.text_projection(output.pooler_output)[
            0
        ]

    expected, counts = [], []
    for image, prompt in zip(squares, PROMPTS, strict=True):
        words, whole = read(prompt)
        related = torch.tensor([max(float(word @ c) for c in read(condition)[0]) for word in words])
        relevant = related / related.max() > threshold
        counts.append(int(relevant.sum()))
        x = clip.visual_projection(clip.vision_model(normalized(image).double()).last_hidden_state)[0]
        for n in range(2):
            x = mps_layer(cross, n, x, words, relevant)
        expected.append(float(w["model.logit_scale"].exp()) * cosine(whole, x[0]))
    assert (min(counts) < 16) == (threshold == 0.8), "the threshold masks words"
    reward = load("mps", folder, threshold=threshold)
    np.testing.assert_allclose(reward.score(squares, PROMPTS), expected, atol=1e-5)


# Aesthetic predictors.


def head_by_layers(weights, prefix, layers, embedding):
    x = embedding.double() / embedding.double().norm()
    for layer in layers:
        x = weights[f"{prefix}{layer}.weight"].double() @ x + weights[f"{prefix}{layer}.bias"].double()
    return float(x[0])


@torch.no_grad()
def test_laion_aesthetic_is_affine_in_the_unit_embedding(tmp_path, squares):
    from capo.rewards.models.laion_aesthetic import LaionAesthetic

    tower = tiny_clip.tower(tmp_path / "tower")
    released = tiny_clip.laion_head(tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    model = CLIPModel.from_pretrained(tower).eval()
    head = torch.load(released, weights_only=True)
    expected = [
        head_by_layers(
            head, "layers.", (0, 2, 4, 6, 7),
            model.visual_projection(model.vision_model(normalized(image)).pooler_output)[0],
        )
        for image in squares
    ]  # fmt: skip
    for reward in (
        LaionAesthetic("r", str(released), "cpu", str(tower)),
        load("laion-aesthetic", tiny_clip.laion(tmp_path / "port")),
    ):
        np.testing.assert_allclose(reward.score(squares, PROMPTS), expected, atol=1e-5)


@torch.no_grad()
def test_siglip_aesthetic_is_affine_in_the_unit_pooled_embedding(tmp_path, squares):
    folder = tiny_clip.siglip(tmp_path)
    model = SiglipModel.from_pretrained(folder).eval()
    head = load_file(folder / "head.safetensors")
    expected = []
    for image in squares:
        pixels = torch.from_numpy(np.asarray(image) / 127.5 - 1).float().permute(2, 0, 1)[None]
        pooled = model.vision_model(pixels).pooler_output[0]
        expected.append(head_by_layers(head, "scoring_head.", (0, 2, 4, 6, 8), pooled))
    np.testing.assert_allclose(load("aesthetic-v2.5", folder).score(squares, PROMPTS), expected, atol=1e-5)
