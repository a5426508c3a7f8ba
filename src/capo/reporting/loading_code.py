"""The code samples of the report: load the tuned model and make an image of it again; repeat the run."""

import shlex
from collections.abc import Mapping
from typing import Any

from capo.diffusion.lora_source import location
from capo.diffusion.plain_pipeline import PlainPipeline, call, call_values, keywords, literal, to_device
from capo.recipe import GenerateSection
from capo.reporting.gather import Material

REGISTERED = ("base_shift", "max_shift")
"""Settings that a pipeline reads from any scheduler, although not all schedulers take them."""

OLD: Mapping[str, Any] = {"left_out": [], "sampler": {}}
"""What runs that recorded nothing for plain diffusers need."""


def loading_code(material: Material) -> str:
    """Return Python code that makes the first tuned image of the page, in the folder of the run's start.

    Runs of earlier versions did not record the noise of an image; their code makes another image of the
    same prompt.
    """
    recipe, model = material.recipe, material.recipe.model
    record = OLD | material.summaries["train"].get("plain_diffusers", {})
    plain = PlainPipeline(
        folder=f"{material.place}/train/best",
        adaptation=recipe.train.adaptation,
        dtype=model.dtype,
        base=model.checkpoint,
        options={name: value for name in ("revision", "variant") if (value := getattr(model, name))},
        parts=dict.fromkeys(record["left_out"]) | record.get("parts", {}),
        pipeline=record.get("pipeline"),
        config=model.config,
        loras=[(lora, location(lora)) for lora in model.loras],
    )
    first = material.side_by_side[0] if material.side_by_side else None
    prompt = first.prompt.text if first else "a prompt"
    seed = first.seed if first and recipe.evaluate.policy is None else None
    return sampling_code(plain, recipe.generate, record, prompt, seed)


def sampling_code(
    plain: PlainPipeline, settings: GenerateSection, record: Mapping[str, Any], prompt: str, seed: int | None
) -> str:
    """Return code that loads a policy and makes the image of `prompt` with the noise of `seed`.

    `record` is the result of `Family.plain_diffusers`. Without a seed, the noise is random.
    """
    scheduler = scheduler_name(settings, record)
    sampler = {n: v for n, v in record["sampler"].items() if n not in REGISTERED}
    registered = {n: v for n, v in record["sampler"].items() if n in REGISTERED}
    config = ["pipe.scheduler.config", *keywords(sampler)]
    lines = [
        *plain.imports(scheduler),
        *plain.loading(),
        to_device(),
        call(f"pipe.scheduler = {scheduler}.from_config", config),
    ]
    if registered:
        lines.append(call("pipe.scheduler.register_to_config", keywords(registered)))
    latents = []
    if seed is not None and "noise" in record:
        shape = ", ".join(map(str, (1, *record["noise"])))
        lines.append(f"noise = torch.randn({shape}, generator=torch.Generator().manual_seed({seed}))")
        latents = [f"latents={record['latents']}"]
    arguments = [f"prompt={literal(prompt)}", *keywords(call_values(settings, record)), *latents]
    lines.append(call("image = pipe", arguments, ".images[0]"))
    return "\n".join([*lines, 'image.save("tuned.png")'])


def scheduler_name(settings: GenerateSection, record: Mapping[str, Any]) -> str:
    """Return the class name of the scheduler that made the images: the recipe's, or the family's default.

    `record` is the result of `Family.plain_diffusers`; empty for runs that did not record it.
    """
    return settings.scheduler or str(record.get("scheduler", "DDIMScheduler"))


def repeat_command(material: Material) -> str:
    """Return the command that makes the run again, in another run directory."""
    recipe, again = f"{material.place}/recipe.yaml", f"{material.place}-again"
    return f"capo run {shlex.quote(recipe)} --run {shlex.quote(again)}"
