"""The report in words: warnings, settings, and statistics of the pairs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capo.pairing.calibration_statistics import tied_share
from capo.pairing.selecting import selection_rule
from capo.pairing.underweighted import advice, underweighted_rewards, underweighted_warning
from capo.recipe import GenerateSection
from capo.reporting import wording
from capo.reporting.gather import Material
from capo.reporting.loading_code import scheduler_name

OPTIMIZERS = {"adamw": "AdamW", "adamw-8bit": "AdamW with 8-bit moments"}


def warnings(material: Material) -> list[str]:
    """Return the warnings of the report, those of the evaluation first."""
    messages = list(material.results.warnings)
    for reward in material.recipe.rewards:
        summary = material.summaries[f"scores/{reward.name}"]
        missing, scored = summary.get("missing", 0), summary.get("scored", 0)
        if missing:
            messages.append(
                f"{reward.name} returned no score for {missing:,} of {missing + scored:,} images. "
                "These images were excluded, not counted as bad."
            )
        if unread := summary.get("truncated_prompts", 0):
            messages.append(
                f"{wording.count(unread, 'prompt is', 'prompts are')} longer than {reward.name} can read. "
                "It scored images by the beginning of these prompts."
            )
    if truncated := material.summaries["samples"].get("truncated_prompts", 0):
        messages.append(
            f"{wording.count(truncated, 'prompt is', 'prompts are')} longer than the text encoders can read. "
            "The ends of these prompts had no effect."
        )
    if truncated := material.summaries.get("validation", {}).get("truncated_prompts", 0):
        messages.append(
            f"{wording.count(truncated, 'validation prompt is', 'validation prompts are')} longer than the "
            "text encoders can read. The ends of these prompts had no effect."
        )
    pairs = material.pairs
    strongest, weak = underweighted_rewards(pairs.spread, reward_weights(material))
    for i in weak:
        observed = underweighted_warning(
            pairs.rewards[i], pairs.spread[i], pairs.rewards[strongest], pairs.spread[strongest]
        )
        messages.append(f"{observed}; {_advice(material, i)}.")
    return [*messages, *(f"{b.title}: {text}" for b in material.benchmarks for text in b.warnings)]


def reward_weights(material: Material) -> np.ndarray:
    """Return [L], how much every reward of the pairs counts in the combined reward."""
    recipe = material.recipe
    return selection_rule(recipe.pairs, recipe.pairing_rewards).weights.numpy()


def _advice(material: Material, i: int) -> str:
    """What makes the underweighted reward `i` count more."""
    pairs = material.pairs
    name, usable = pairs.rewards[i], np.isfinite(pairs.combined)
    scores, ties = material.raw_scores.get(name, np.empty(0)), 0.0
    if len(scores) == len(usable) and usable.any():  # existing labels may cover other samples
        ties = tied_share(pairs.prompt[usable], scores[usable])
    return advice(ties, material.comparisons.get(name, {}).get("comparison", ""))


def pair_statistics(material: Material) -> list[tuple[str, str]]:
    """Return the label and value of every statistic of the pairs."""
    pairs, deltas = material.pairs, material.pairs.delta_rewards
    paired = len(pairs.paired)
    set_aside = int((~np.isfinite(pairs.combined)).sum())
    facts = [
        ("Prompts", f"{len(pairs.prompt_ids):,}"),
        ("Prompts with a pair", f"{paired:,}"),
        ("Chosen samples per prompt", f"{pairs.chosen.sum() / max(1, paired):.1f}"),
        ("Rejected samples per prompt", f"{pairs.rejected.sum() / max(1, paired):.1f}"),
        ("Samples without a score", f"{set_aside:,}"),
    ]
    if dropped := material.summaries["train"].get("prompts", {}).get("dropped", 0):
        facts.append(("Prompts without a pair above the minimum margin", f"{dropped:,}"))
    if deltas.size:
        facts += [
            ("Mean ΔR", wording.number(float(deltas.mean()), 3)),
            ("Pairs with ΔR ≤ 0", wording.percent(float((deltas <= 0).mean()), 2)),
        ]
    return facts


def settings(material: Material) -> list[tuple[str, str]]:
    """Return the most important settings; the page also shows the complete recipe."""
    recipe = material.recipe
    generate, train = recipe.generate, recipe.train
    adaptation = f"LoRA, rank {train.lora_rank}" if train.adaptation == "lora" else "all weights"
    weighting = f"sigmoid, b = {train.weighting_bias:g}" if train.weighting == "sigmoid" else "constant"
    revision = f"@{recipe.model.revision}" if recipe.model.revision else ""
    scheduler = scheduler_name(generate, material.summaries["train"].get("plain_diffusers", {}))
    return [
        ("Base model", recipe.model.checkpoint + revision),
        ("Prompts", f"{recipe.prompts.source}, {len(material.prompts):,}"),
        ("Images", recipe.images.source)
        if recipe.images
        else ("Samples per prompt", samples(recipe.generate, material.summaries["samples"])),
        (
            "Sampler",
            f"{scheduler}, {wording.count(generate.num_inference_steps, 'step')}, "
            f"guidance {generate.guidance_scale:g}",
        ),
        ("Training rewards", ", ".join(r.name for r in recipe.training_rewards)),
        ("Held-out rewards", ", ".join(r.name for r in recipe.rewards if r.use == "evaluate") or "none"),
        ("Pairs", recipe.pairs.selection),
        ("Objective", f"{train.objective}, β = {train.beta:g}, weighting {weighting}"),
        ("Adaptation", adaptation),
        *_round(material),
        (
            "Optimizer",
            f"{OPTIMIZERS[train.optimizer]}, learning rate {train.learning_rate:g}, "
            f"{train.steps:,} steps of {wording.count(train.global_batch_size, 'pair')}",
        ),
        ("Checkpoint kept", _kept(material)),
        ("Seed", f"{recipe.seed}"),
    ]


def samples(section: GenerateSection, summary: Mapping[str, Any]) -> str:
    """Return the number of samples per prompt; if it varies, with its range and distribution.

    `summary` is the summary of the artifact `samples`.
    """
    adaptive, most = section.adaptive, section.samples_per_prompt
    if adaptive is None:
        return f"{most}"
    counts = summary["prompts_by_samples"].items()
    spread = ", ".join(f"{wording.count(prompts, 'prompt')} with {samples}" for samples, prompts in counts)
    return (
        f"{adaptive.first} to {most}, until pairs differ by {adaptive.margin:g}: {summary['samples']:,} of "
        f"at most {summary['samples_at_most']:,} images ({spread})"
    )


def _round(material: Material) -> list[tuple[str, str]]:
    """Return the number of the round and its start; nothing for a first round."""
    start = material.recipe.start
    if start is None:
        return []
    reference = "the base model" if start.reference == "base" else "its start"
    number = material.summaries["train"]["round"]
    return [("Round", f"{number}, starts from {start.run}, reference: {reference}")]


def _kept(material: Material) -> str:
    best = material.training.best
    if best is None:
        return "the last one"
    reason = "best on the validation prompts" if material.training.validation else "the last one"
    return f"step {best['step']:,}, {reason}"


def comparison(described: Mapping[str, Any]) -> str:
    """Return a comparison in words: `bradley-terry, temperature 1`."""
    name, *parameters = described.items()
    return ", ".join([str(name[1]), *(f"{key} {value:g}" for key, value in parameters)])
