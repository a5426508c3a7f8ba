"""The tiny checkpoints that family tests run over, and their sampling settings."""

import torch
from diffusers import (
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxPipeline,
    PixArtSigmaPipeline,
    QwenImagePipeline,
    SanaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)

from capo.diffusion import load_family
from capo.recipe import GenerateSection, ModelSection

PIPELINES = {
    "sd15": StableDiffusionPipeline,
    "sd21": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
    "sd3-without-t5": StableDiffusion3Pipeline,
    "sd35": StableDiffusion3Pipeline,
    "flux-dev": FluxPipeline,
    "flux-schnell": FluxPipeline,
    "sana": SanaPipeline,
    "pixart": PixArtSigmaPipeline,
    "qwen-image": QwenImagePipeline,
    "z-image": ZImagePipeline,
    "flux2-dev": Flux2Pipeline,
    "flux2-klein-base": Flux2KleinPipeline,
}
SHORT = {
    "pixart": {"max_sequence_length": 32},
    "qwen-image": {"max_sequence_length": 180},
    "z-image": {"max_sequence_length": 64},
    "flux2-dev": {"max_sequence_length": 220},
    "flux2-klein": {"max_sequence_length": 64},
    "flux2-klein-base": {"max_sequence_length": 64},
}
"""Fewer tokens than these families read by default, for speed."""
ABSENT = {
    "sd15": {"safety_checker": None},
    "sd21": {"safety_checker": None},
    "sd3-without-t5": {"text_encoder_3": None, "tokenizer_3": None},
}


def settings_of(name, **fields):
    """Three steps of 32-pixel images with the paper's sampler, or that of the pipeline's authors."""
    if name.startswith("flux-"):
        own = {
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "guidance_scale": 3.5 if name == "flux-dev" else 0,
        }
    elif name.startswith(("flux2", "qwen", "z-image")):
        guidance = 0 if name == "flux2-klein" else 4.0
        own = {"scheduler": "FlowMatchEulerDiscreteScheduler", "guidance_scale": guidance}
    elif name.startswith(("sd3", "sana")):
        own = {"scheduler": "DPMSolverMultistepScheduler", "guidance_scale": 5.0}
    else:
        own = {"scheduler": "DDIMScheduler", "guidance_scale": 7.5}
    return GenerateSection(**{"num_inference_steps": 3, "height": 32, "width": 32, **own, **fields})


def family_of(folder, **fields):
    return load_family(ModelSection(checkpoint=str(folder), **fields), torch.device("cpu"))
