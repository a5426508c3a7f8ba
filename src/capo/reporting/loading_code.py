"""The code sample of the report that loads the tuned model."""

import json

from capo.diffusion import is_plugin_checkpoint
from capo.diffusion.model_card import base_call, fusing_lines
from capo.recipe import Recipe
from capo.reporting import wording
from capo.reporting.gather import Material


def loading_code(material: Material) -> str:
    """Return Python code that loads the tuned model with diffusers, to be run in the run directory."""
    recipe, settings = material.recipe, material.recipe.generate
    plain = material.summaries["train"].get("plain_diffusers", {"left_out": [], "sampler": {}})
    sampler = ["pipe.scheduler.config", *(f"{k}={v!r}" for k, v in plain["sampler"].items())]
    prompt = material.side_by_side[0].prompt.text if material.side_by_side else "a prompt"
    full = recipe.train.adaptation == "full"
    kind = "DiffusionPipeline" if full else plain.get("pipeline", "DiffusionPipeline")
    lines = [
        f"from diffusers import {', '.join(sorted({kind, settings.scheduler}))}",
        "",
        *_loading(recipe, kind, [f"{part}=None" for part in plain["left_out"]]),
        f"pipe.scheduler = {settings.scheduler}.from_config({', '.join(sampler)})",
        f"image = pipe({_literal(wording.excerpt(prompt, 80))}, {', '.join(_call(recipe))}).images[0]",
    ]
    if _needs_capo(recipe):
        lines.insert(0, "from capo.diffusion import resolve_checkpoint  # the base ships with capo")
    return "\n".join(lines)


def _needs_capo(recipe: Recipe) -> bool:
    return is_plugin_checkpoint(recipe.model.checkpoint) and recipe.train.adaptation != "full"


def _loading(recipe: Recipe, kind: str, absent: list[str]) -> list[str]:
    """The lines that build `pipe`; `absent` are arguments for parts that the pipeline leaves out."""
    if recipe.train.adaptation == "full":
        arguments = ", ".join(['"train/best"', *absent])
        return [f"pipe = DiffusionPipeline.from_pretrained({arguments})"]
    model = recipe.model
    options = [f"{k}={_literal(v)}" for k in ("revision", "variant") if (v := getattr(model, k))]
    name = _literal(model.checkpoint)
    base = f"resolve_checkpoint({name})" if _needs_capo(recipe) else name
    return [
        f"pipe = {base_call(kind, base, [*options, *absent], model.config)}",
        *fusing_lines("pipe", [(lora.path, lora.weight) for lora in model.loras]),
        'pipe.load_lora_weights("train/best")',
    ]


def _call(recipe: Recipe) -> list[str]:
    """The arguments of the pipeline's call after the prompt."""
    settings = recipe.generate
    names = ("num_inference_steps", "guidance_scale", "height", "width")
    call = [f"{name}={value:g}" for name in names if (value := getattr(settings, name)) is not None]
    if recipe.model.max_sequence_length is not None:
        call.append(f"max_sequence_length={recipe.model.max_sequence_length}")
    return call


def _literal(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
