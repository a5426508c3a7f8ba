"""The diversity of images, measured with tiny encoders of the real architectures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, Dinov2Config, Dinov2Model
from transformers.models.bit import BitImageProcessorPil

import tiny_rewards
import tiny_run
from capo.evaluation.measure_diversity import EncoderWeights, ImageEncoder, find_encoder, prompt_distances
from capo.rewards import RewardError


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def encoder(place):
    return ImageEncoder(EncoderWeights("it", str(place), str(place)), torch.device("cpu"))


def test_distances_are_between_clip_image_features(tmp_path):
    place = tiny_rewards.clip(tmp_path / "clip")
    found = prompt_distances(encoder(place), [*pictures(3, seed=1), *pictures(1, seed=2) * 3], 3)
    model = CLIPModel.from_pretrained(place).eval()
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) / 255 for i in pictures(3, seed=1)])
    processor = tiny_rewards._image_processor()
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        a, b, c = model.visual_projection(model.vision_model((pixels - mean) / std).pooler_output)
    two = [1 - cosine_similarity(x, y, dim=0).item() for x, y in ((a, b), (a, c), (b, c))]
    assert found == pytest.approx([np.mean(two), 0.0], abs=1e-5)


def test_dino_is_read_too(tmp_path):
    sizes = {"shortest_edge": 16}
    BitImageProcessorPil(size=sizes, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    features = encoder(tmp_path).embed(pictures(3))
    assert features.shape == (3, 16)
    shuffled = encoder(tmp_path).embed(pictures(3)[::-1])
    torch.testing.assert_close(shuffled.flip(0), features, rtol=1e-4, atol=1e-5)


def test_the_encoder_is_chosen_by_its_name():
    def found(rewards, **evaluate):
        recipe = tiny_run.recipe(rewards, evaluate=evaluate)
        return find_encoder(recipe.evaluate.embedder, recipe.rewards)

    pick, vqa = {"name": "pickscore"}, {"name": "vqascore"}
    held = {"name": "other", "source": "pickscore", "checkpoint": "a/b", "use": "evaluate"}
    own = {"name": "own", "source": "function_rewards:redness"}
    program = {"name": "pickscore", "command": ["score"]}
    assert found([vqa, own]) is None
    assert found([program]) is None
    chosen = found([vqa, pick])
    assert chosen.name == "the image encoder of pickscore"
    assert chosen.checkpoint.startswith("yuvalkirstain/PickScore_v1@")
    assert chosen.processor.startswith("laion/CLIP-ViT-H-14-laion2B-s32B-b79K@")
    assert found([pick, held]) == EncoderWeights("the image encoder of other", "a/b", "a/b")
    assert found([pick], embedder="facebook/dinov2-base").checkpoint == "facebook/dinov2-base"


def test_a_missing_encoder_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RewardError, match="cannot be loaded"):
        encoder(tmp_path)
