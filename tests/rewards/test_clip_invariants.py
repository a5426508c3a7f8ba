"""Properties of the CLIP rewards that hold for any weights, and the weights they reject."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny_clip_rewards as tiny_clip
from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.rewards import RewardError, build_comparison, load_reward, reward_identity
from capo.rewards.protocol import Truncating

BUILT = {
    "pickscore": tiny_clip.tower,
    "hpsv2.1": tiny_clip.open_clip,
    "mps": tiny_clip.mps,
    "clipscore": tiny_clip.tower,
    "laion-aesthetic": tiny_clip.laion,
    "aesthetic-v2.5": tiny_clip.siglip,
}
BLIND = ("laion-aesthetic", "aesthetic-v2.5")


def load(source, checkpoint, **options):
    return load_reward(
        RewardSection(name="r", source=source, checkpoint=str(checkpoint), options=options), "cpu"
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kin")
    return {source: build(root / source) for source, build in BUILT.items()}


@pytest.fixture(scope="module", params=BUILT)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def reward(source, folders):
    return load(source, folders[source])


def test_batch_and_order_do_not_matter(reward, images, prompts):
    """Prompts of different lengths, some repeated: in one batch, one by one, and shuffled."""
    whole = reward.score(images, prompts)
    assert whole.dtype == np.float64
    assert len(set(whole)) == 6
    single = [reward.score([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-6)
    order = [4, 2, 0, 5, 1, 3]
    shuffled = reward.score([images[k] for k in order], [prompts[k] for k in order])
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-5, atol=1e-6)


def test_accepts_every_kind_of_image(reward, images):
    """The same picture in another mode gets the same score, and unusual sizes get a finite score."""
    gray = images[1].convert("L")
    turned = images[1].transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # rotated by 90 degrees
    equal_pairs = [
        (gray, Image.merge("RGB", [gray] * 3)),
        (images[1].convert("RGBA"), images[1]),
        (turned, images[1]),
    ]
    for stored, plain in equal_pairs:
        scores = reward.score([stored, plain], ["a red circle"] * 2)
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
    odd = [Image.new("RGB", size, "teal") for size in [(1, 1), (1, 4000), (4000, 1), (1500, 1000)]]
    assert np.isfinite(reward.score(odd, ["a red circle"] * 4)).all()


def test_a_strip_is_cropped_before_it_is_resized():
    """Resized to 224 pixels across, 1 x 40,000 would become two billion pixels."""
    from capo.rewards.rgb_images import crop_strip

    columns = np.arange(40_000) % 251
    strip = Image.fromarray(np.repeat(columns[None, :, None], 3, axis=2).astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(crop_strip(strip))[0, :, 0], columns[19_992:20_008])
    assert crop_strip(strip.rotate(90, expand=True)).size == (1, 16)
    assert crop_strip(strip.resize((16, 1))).size == (16, 1)


def test_reports_which_prompts_are_cut(reward, source, images):
    """The model reads 16 tokens, of which 14 belong to the prompt."""
    if source in BLIND:
        assert not isinstance(reward, Truncating)
        first, second = reward.score(images[:1] * 2, ["a red circle", "a dog"])
        assert first == second
        return
    prompts = ["red " * 14, "red " * 15, "", "red " * 400]
    assert isinstance(reward, Truncating)
    assert reward.truncated(prompts) == [False, True, False, True]
    fits, cut, _, longer = reward.score(images[:1] * 4, prompts)
    assert fits == pytest.approx(cut) == pytest.approx(longer)


@pytest.mark.parametrize(
    ("source", "temperature"),
    [
        ("hpsv2", 0.01),
        ("hpsv2.1", 0.01),
        ("mps", 1.0),
        ("clipscore", 0.01),
        ("laion-aesthetic", 1.0),
        ("aesthetic-v2.5", 1.0),
    ],
)
def test_declared_comparisons(source, temperature):
    assert build_comparison(RewardSection(name=source)) == BradleyTerry(temperature)


def test_an_option_changes_the_identity_and_the_score(folders, images):
    given = RewardSection(name="hpsv2.1", checkpoint=str(folders["hpsv2.1"]), options={"antialias": True})
    plain = given.model_copy(update={"options": {}})
    assert reward_identity(given) != reward_identity(plain)
    large = [images[1].resize((90, 60))]
    assert load_reward(given, "cpu").score(large, ["a"]) != load_reward(plain, "cpu").score(large, ["a"])


# Rejected options and weights.


@pytest.mark.parametrize(
    ("source", "option", "value", "message"),
    [
        ("clipscore", "convention", "hundredfold", "should be 'cosine', 'scaled' or 'clipped', got 'hund"),
        ("hpsv2", "antialias", "false", "should be a valid boolean, got 'false'"),  # a true value
        ("mps", "threshold", "0.3", "should be a valid number, got '0.3'"),
        ("mps", "threshold", True, "should be a valid number, got True"),
    ],
)
def test_an_option_of_the_wrong_type_is_an_error(source, option, value, message):
    section = RewardSection(name="r", source=source, options={option: value})
    for ask in (build_comparison, reward_identity, lambda s: load_reward(s, "cpu")):
        with pytest.raises(RewardError, match=f"reward 'r': option {option}: Input {message}"):
            ask(section)


CROSS = "mps.cross_model.layers."


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("hpsv2.1", lambda w: w.pop("visual.proj"), "lacks weights of CLIPModel: visual_projection.weight"),
        ("hpsv2.1", lambda w: w.update(head=torch.zeros(2)), "unknown weights of CLIPModel: head"),
        ("hpsv2.1", lambda w: w["ln_final.bias"].fill_(torch.nan), "not finite: text_model.final_layer_norm"),
        ("hpsv2.1", lambda w: w.update({"visual.proj": torch.zeros(3, 3)}), "does not fit CLIPModel"),
        ("mps", lambda w: w.pop(f"{CROSS}1.1.fn.attn_out.weight"), "lacks weights of CrossModel"),
        ("mps", lambda w: w.pop(f"{CROSS}0.0.fn.to_q.weight"), "lacks weights of CrossModel"),
        ("mps", lambda w: w.update({"mps.head": torch.zeros(2)}), "unknown weights of Mps: head"),
        ("laion-aesthetic", lambda w: w.pop("mlp.layers.7.bias"), "got 0.bias"),
        ("laion-aesthetic", lambda w: w.update({"mlp.layers.4.bias": torch.zeros(3)}), "not fit together"),
        ("laion-aesthetic", lambda w: w["mlp.layers.7.bias"].fill_(torch.inf), "finite weights"),
        ("laion-aesthetic", lambda w: w.pop("clip.visual_projection.weight"), "lacks weights of CLIPVision"),
    ],
)
def test_weights_that_do_not_fit_are_rejected(folders, tmp_path, source, change, message):
    folder = shutil.copytree(folders[source], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(RewardError, match=message):
        load(source, folder)


def test_a_head_with_activations_is_rejected(tmp_path):
    """Releases with ReLU have other layer numbers. As an affine map they would give nonsense."""
    head = torch.load(tiny_clip.laion_head(tmp_path / "head.pth"), weights_only=True)
    moved = {"0": "0", "2": "3", "4": "6", "6": "9", "7": "11"}
    other = {f"layers.{moved[k.split('.')[1]]}.{k.split('.')[2]}": t for k, t in head.items()}
    torch.save(other, tmp_path / "relu.pth")
    with pytest.raises(RewardError, match=r"got 0\.bias, 0\.weight, 11\.bias"):
        load("laion-aesthetic", tmp_path / "relu.pth")


def test_a_pickled_model_is_rejected_and_never_run(tmp_path):
    """Like the release of MPS: a whole module, and reading it runs code."""
    marker = tmp_path / "marker"

    class Whole:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    (tmp_path / "MPS_overall_checkpoint.pth").write_bytes(pickle.dumps(Whole(), protocol=2))
    with pytest.raises(RewardError, match="must hold tensors"):
        load("mps", tmp_path / "MPS_overall_checkpoint.pth")
    assert not marker.exists()


def test_a_pickled_release_is_not_fetched():
    with pytest.raises(RewardError, match=r"download https://github\.com/discus0434/.*checkpoint: path/to/f"):
        load_reward(RewardSection(name="aesthetic-v2.5"), "cpu")
