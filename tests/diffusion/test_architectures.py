"""The networks have as many parameters as the published weights."""

import diffusers
import pytest
import torch
import transformers

from capo.diffusion.architectures import PARTS

CLIP_L, BIG_G, T5_XXL = 123_060_480, 694_659_840, 4_762_310_656
PROJECTED_CLIP_L = CLIP_L + 768 * 768
VAE, VAE_16, FLUX2_VAE = 83_653_863, 83_819_683, 84_046_115
QWEN3_4B = 4_022_468_096
SD3_PARTS = {
    "vae": VAE_16,
    "text_encoder": PROJECTED_CLIP_L,
    "text_encoder_2": BIG_G,
    "text_encoder_3": T5_XXL,
}
PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": VAE, "text_encoder": CLIP_L},
    "sdxl": {"unet": 2_567_463_684, "vae": VAE, "text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    "sd3": {"transformer": 2_028_328_000, **SD3_PARTS},
    "sd35": {"transformer": 2_243_171_520, **SD3_PARTS},
    "sd35-large": {"transformer": 8_056_627_520, **SD3_PARTS},
    "flux": {"transformer": 11_901_408_320, "vae": VAE_16, "text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    "flux2": {"transformer": 32_223_281_152, "vae": FLUX2_VAE, "text_encoder": 24_011_361_280},
    "flux2-klein-4b": {"transformer": 3_875_544_576, "vae": FLUX2_VAE, "text_encoder": QWEN3_4B},
    "flux2-klein-9b": {"transformer": 9_078_581_248, "vae": FLUX2_VAE, "text_encoder": 8_190_735_360},
    "qwen-image": {"transformer": 20_430_401_088, "vae": 126_892_531, "text_encoder": 8_292_166_656},
    "z-image": {"transformer": 6_154_908_736, "vae": VAE_16, "text_encoder": QWEN3_4B},
    "pixart-sigma": {"transformer": 610_856_096, "vae": VAE, "text_encoder": T5_XXL},
}


def parameters(kind, config):
    with torch.device("meta"):
        if hasattr(diffusers, kind):
            model = getattr(diffusers, kind).from_config(config)
        else:
            model_class = getattr(transformers, kind)
            model = model_class(model_class.config_class(**config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_the_published_number_of_parameters(name):
    parts = {folder: part for folder, part in PARTS[name].items() if folder != "scheduler"}
    assert {folder: parameters(*part) for folder, part in parts.items()} == PUBLISHED[name]
