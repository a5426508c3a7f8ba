"""What the page says in words: warnings, settings, statistics, and how to use the model."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from capo.diffusion import is_plugin_checkpoint
from capo.pairing.underweighted import underweighted_rewards, underweighted_warning
from capo.recipe import Recipe
from capo.reporting import wording
from capo.reporting.gather import Material


def warnings(material: Material) -> list[str]:
    """What a reader must know before trusting the numbers; the evaluation's own come first."""
    found = list(material.results.warnings)
    for reward in material.recipe.rewards:
        summary = material.summaries[f"scores/{reward.name}"]
        missing, scored = summary.get("missing", 0), summary.get("scored", 0)
        if missing:
            found.append(
                f"{reward.name} gave no score for {missing:,} of {missing + scored:,} images; "
                "they were set aside, not counted as bad."
            )
        if unread := summary.get("truncated_prompts", 0):
            found.append(
                f"{wording.count(unread, 'prompt is', 'prompts are')} longer than {reward.name} reads; "
                "it judged by the beginning."
            )
    if truncated := material.summaries["samples"].get("truncated_prompts", 0):
        found.append(
            f"{wording.count(truncated, 'prompt is', 'prompts are')} longer than the text encoders read; "
            "the ends were cut off."
        )
    pairs = material.pairs
    strongest, weak = underweighted_rewards(pairs.spread)
    for i in weak:
        observed = underweighted_warning(
            pairs.rewards[i], pairs.spread[i], pairs.rewards[strongest], pairs.spread[strongest]
        )
        found.append(
            f"{observed}. A lower temperature, a higher exponent, or a larger weight makes it count more."
        )
    return found


def loading_code(material: Material) -> str:
    """Python that loads the tuned model with diffusers alone, run from inside the run directory."""
    recipe = material.recipe
    model, settings = recipe.model, recipe.generate
    embedded, full = is_plugin_checkpoint(model.checkpoint), recipe.train.adaptation == "full"
    imports = [f"from diffusers import {', '.join(sorted({'DiffusionPipeline', settings.scheduler}))}"]
    plain = material.summaries["train"].get("plain_diffusers", {"left_out": [], "sampler": {}})
    absent = [f"{part}=None" for part in plain["left_out"]]
    if full:
        arguments = ", ".join(['"train/best"', *absent])
        loaded = [f"pipe = DiffusionPipeline.from_pretrained({arguments})"]
    else:
        options = [f"{k}={_literal(v)}" for k in ("revision", "variant") if (v := getattr(model, k))]
        if embedded:
            imports.insert(0, "from capo.diffusion import resolve_checkpoint  # the base ships with capo")
        name = _literal(model.checkpoint)
        base = f"resolve_checkpoint({name})" if embedded else name
        loaded = [
            f"pipe = DiffusionPipeline.from_pretrained({', '.join([base, *options, *absent])})",
            'pipe.load_lora_weights("train/best")',
        ]
    given = ("num_inference_steps", "guidance_scale", "height", "width")
    call = [f"{name}={value:g}" for name in given if (value := getattr(settings, name)) is not None]
    if model.max_sequence_length is not None:
        call.append(f"max_sequence_length={model.max_sequence_length}")
    sampler = ["pipe.scheduler.config", *(f"{k}={v!r}" for k, v in plain["sampler"].items())]
    prompt = material.contrasts[0].prompt.text if material.contrasts else "a prompt"
    return "\n".join(
        [
            *imports,
            "",
            *loaded,
            f"pipe.scheduler = {settings.scheduler}.from_config({', '.join(sampler)})",
            f"image = pipe({_literal(wording.excerpt(prompt, 80))}, {', '.join(call)}).images[0]",
        ]
    )


def of_pairs(material: Material) -> list[tuple[str, str]]:
    """What there is to know of the pairs, in words and numbers."""
    pairs, deltas = material.pairs, material.pairs.delta_rewards
    paired = len(pairs.paired)
    set_aside = int((~np.isfinite(pairs.combined)).sum())
    facts = [
        ("Prompts", f"{len(pairs.prompt_ids):,}"),
        ("with a pair", f"{paired:,}"),
        ("Chosen samples a prompt", f"{pairs.chosen.sum() / max(1, paired):.1f}"),
        ("Rejected samples a prompt", f"{pairs.rejected.sum() / max(1, paired):.1f}"),
        ("Samples set aside without a score", f"{set_aside:,}"),
    ]
    if dropped := material.summaries["train"].get("prompts", {}).get("dropped", 0):
        facts.append(("Prompts without a pair above the least margin", f"{dropped:,}"))
    if deltas.size:
        facts += [
            ("Mean ΔR", wording.number(float(deltas.mean()), 3)),
            ("Pairs with ΔR ≤ 0", wording.percent(float((deltas <= 0).mean()), 2)),
        ]
    return facts


def settings(material: Material) -> list[tuple[str, str]]:
    """The settings that a reader asks for first; the recipe below has all."""
    recipe = material.recipe
    generate, train = recipe.generate, recipe.train
    adaptation = f"LoRA, rank {train.lora_rank}" if train.adaptation == "lora" else "all weights"
    weighting = f"sigmoid, b = {train.weighting_bias:g}" if train.weighting == "sigmoid" else "constant"
    revision = f"@{recipe.model.revision}" if recipe.model.revision else ""
    return [
        ("Base model", recipe.model.checkpoint + revision),
        ("Prompts", f"{recipe.prompts.source}, {len(material.prompts):,}"),
        ("Images", recipe.images.source)
        if recipe.images
        else ("Samples a prompt", samples(recipe, material.summaries["samples"])),
        (
            "Sampler",
            f"{generate.scheduler}, {wording.count(generate.num_inference_steps, 'step')}, "
            f"guidance {generate.guidance_scale:g}",
        ),
        ("Training rewards", ", ".join(r.name for r in recipe.training_rewards)),
        ("Held-out rewards", ", ".join(r.name for r in recipe.rewards if r.use == "evaluate") or "none"),
        ("Pairs", recipe.pairs.selection),
        ("Objective", f"{train.objective}, β = {train.beta:g}, weighting {weighting}"),
        ("Adaptation", adaptation),
        *_round(material),
        (
            "Optimiser",
            f"Adam, learning rate {train.learning_rate:g}, "
            f"{train.steps:,} steps of {wording.count(train.global_batch_size, 'pair')}",
        ),
        ("Checkpoint kept", _kept(material)),
        ("Seed", f"{recipe.seed}"),
    ]


def samples(recipe: Recipe, summary: Mapping[str, Any]) -> str:
    """How many samples a prompt has, with what the summary of `samples` says of it where they vary."""
    adaptive, most = recipe.generate.adaptive, recipe.generate.samples_per_prompt
    if adaptive is None:
        return f"{most}"
    counts = summary["prompts_by_samples"].items()
    spread = ", ".join(f"{wording.count(prompts, 'prompt')} with {samples}" for samples, prompts in counts)
    return (
        f"{adaptive.first} to {most}, until pairs differ by {adaptive.margin:g}: {summary['samples']:,} of "
        f"{summary['samples_at_most']:,} images made ({spread})"
    )


def _round(material: Material) -> list[tuple[str, str]]:
    """Which round it is and what it goes on from; nothing of a first one."""
    start = material.recipe.start
    if start is None:
        return []
    measured = "the base model" if start.reference == "base" else "what it starts from"
    number = material.summaries["train"]["round"]
    return [("Round", f"{number}, goes on from {start.run}, trained against {measured}")]


def _kept(material: Material) -> str:
    best = material.training.best
    if best is None:
        return "the last"
    chosen = "best on the validation prompts" if material.training.validation else "the last"
    return f"step {best['step']:,}, {chosen}"


def comparison(described: Mapping[str, Any]) -> str:
    """`bradley-terry, temperature 1`."""
    name, *parameters = described.items()
    return ", ".join([str(name[1]), *(f"{key} {value:g}" for key, value in parameters)])


def _literal(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
