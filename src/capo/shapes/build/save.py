"""Build one part and save it in the layout of the real model that it represents."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    PreTrainedModel,
    VisionEncoderDecoderModel,
)

from capo.shapes.build import drawn_data as data
from capo.shapes.build import train_rewards as rewards
from capo.shapes.build import train_vqa as vqa
from capo.shapes.build.base import train_base
from capo.shapes.build.part import BuildPart
from capo.shapes.build.tokenizers import clip_tokenizer, question_tokenizer
from capo.shapes.build.train_flow import train_flow
from capo.shapes.build.train_vae import train_vae
from capo.shapes.scenes import SIZE


def build_vae(directory: Path, part: BuildPart) -> None:
    """Build `directory/base/vae`, to which `build_base` adds the rest of the pipeline."""
    vae = train_vae(part)
    vae.half().save_pretrained(directory / "base" / "vae")


def build_base(directory: Path, part: BuildPart) -> None:
    pipeline: StableDiffusionXLPipeline = train_base(_vae(directory, part.device), part)
    pipeline.to("cpu", torch.float16)
    pipeline.save_pretrained(directory / "base")


def build_flow(directory: Path, part: BuildPart) -> None:
    pipeline: StableDiffusion3Pipeline = train_flow(_vae(directory, part.device), part)
    pipeline.to("cpu", torch.float16)
    pipeline.save_pretrained(directory / "flow")


def build_preference(directory: Path, part: BuildPart) -> None:
    vae = _vae(directory, part.device)
    model = rewards.train_preference(rewards.PREFERENCE, vae, part)
    _save_clip(model, directory / "preference")


def build_heldout(directory: Path, part: BuildPart) -> None:
    vae = _vae(directory, part.device)
    model = rewards.train_preference(rewards.HELDOUT, vae, part)
    _save_clip(model, directory / "heldout")


def build_vqa_1(directory: Path, part: BuildPart) -> None:
    vision_tower = CLIPVisionModel.from_pretrained(directory / "preference", dtype=torch.float32)
    model = vqa.untrained_vqa(vision_tower)
    vqa.train_vqa(model, vqa.BLIND, _base(directory, part.device), part)
    _save_vqa(model, directory / "vqa-1")


def build_vqa(directory: Path, part: BuildPart) -> None:
    model = VisionEncoderDecoderModel.from_pretrained(directory / "vqa-1", dtype=torch.float32)
    vqa.train_vqa(model, vqa.GROUNDED, _base(directory, part.device), part)
    _save_vqa(model, directory / "vqa")


def build_aesthetic(directory: Path, part: BuildPart) -> None:
    model = rewards.train_aesthetic(_vae(directory, part.device), part)
    _save(model, directory / "aesthetic")
    _image_processor().save_pretrained(directory / "aesthetic")


BUILDERS = {
    "vae": build_vae,
    "base": build_base,
    "flow": build_flow,
    "preference": build_preference,
    "vqa-1": build_vqa_1,
    "vqa": build_vqa,
    "aesthetic": build_aesthetic,
    "heldout": build_heldout,
}


def _vae(directory: Path, device: str) -> AutoencoderKL:
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(
        directory / "base" / "vae", torch_dtype=torch.float32, use_safetensors=True
    )
    vae.register_to_config(_name_or_path="")  # the checkpoint must not contain the path of its build
    return vae.to(device, memory_format=torch.channels_last).eval()


def _base(directory: Path, device: str) -> StableDiffusionXLPipeline:
    base: StableDiffusionXLPipeline = StableDiffusionXLPipeline.from_pretrained(
        directory / "base", torch_dtype=torch.float32, use_safetensors=True
    )
    base.vae.to(memory_format=torch.channels_last)
    return base.to(device)


def _save_vqa(model: VisionEncoderDecoderModel, folder: Path) -> None:
    model.config.encoder._name_or_path = model.config._name_or_path = ""  # no path of the build
    _save(model, folder)
    _image_processor().save_pretrained(folder)
    question_tokenizer().save_pretrained(folder)


def _save_clip(model: PreTrainedModel, folder: Path) -> None:
    _save(model, folder)
    _image_processor().save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)


def _save(model: PreTrainedModel, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.to("cpu", torch.float16).save_pretrained(folder)


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(data.MEAN),
        image_std=list(data.DEVIATION),
    )
