"""Stage `evaluate`, second half: the tuned model against the baseline (App. B.2).

Base and tuned model share their prompts and seeds, so their images can be shown side by side.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from capo.evaluation.baseline import evaluated_model_inputs, kept_as
from capo.recipe import Recipe
from capo.store.manifest import identify
from capo.store.step import Job, Step, flatten, make_all

if TYPE_CHECKING:
    from capo.evaluation.candidates import Candidate
    from capo.prompts import Prompt

PAGE = "index.html"

POLICY_FIELDS = ("step", "adaptation", "soup")
"""Fields of the policy's `capo.json` that the results repeat."""


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `evaluate`."""
    trained = ("train",) if recipe.evaluate.policy is None else ()
    inputs = evaluated_model_inputs(recipe) | _evaluate_inputs(recipe)
    return [
        Step("evaluate", "evaluate", inputs, (*trained, "baseline"), evaluate, sharded=True, kept_as=kept_as)
    ]


def _evaluate_inputs(recipe: Recipe) -> dict[str, Any]:
    from capo.evaluation.candidates import candidate_identity
    from capo.prompts import prompts_inputs
    from capo.rewards import reward_inputs
    from capo.rewards.weights.location import weights_identity
    from capo.scoring.judging import judge_inputs

    section = recipe.evaluate
    inputs = flatten("evaluate", section.results()) | judge_inputs(section.judge)
    inputs |= prompts_inputs("evaluate.prompts", section.prompts)
    if section.policy is not None:
        inputs["evaluate.policy.content"] = candidate_identity("evaluate.policy", section.policy)
    if section.embedder is not None:
        field, embedder = "evaluate.embedder", section.embedder
        inputs[f"{field}.content"] = identify(field, lambda: weights_identity(field, embedder))
    for reward in recipe.rewards:
        inputs |= flatten(f"rewards.{reward.name}", reward.results()) | reward_inputs(reward)
    return inputs


def evaluate(job: Job) -> None:
    """Write images of the tuned model, scores, judgments, `results.json`, and a page with both models.

    Images without a score are left out of the win-rates and counted.
    """
    from capo.evaluation.candidates import against, tuned
    from capo.evaluation.measure_diversity import find_encoder, measure_diversity, read_diversity
    from capo.evaluation.model_images import TUNED, image_sets, measure, own_sets, read_judgments
    from capo.evaluation.results_page import results_page
    from capo.evaluation.win_rates import Measurements, evaluation_results
    from capo.prompts import load_prompts

    recipe, section, artifact = job.recipe, job.recipe.evaluate, job.artifact
    baseline = job.run.artifact("baseline")
    prompts = load_prompts(section.prompts, recipe.seed, "evaluate.prompts")
    candidate, base = tuned(section, job.run.artifact("train")), against(section, recipe.model)
    sets = image_sets(baseline) | own_sets(job, prompts, [TUNED])
    ids, samples = [prompt.prompt_id for prompt in prompts], section.samples_per_prompt
    encoder = find_encoder(section.embedder, recipe.rewards) if samples > 1 else None
    pieces = [partial(measure, job, prompts, [TUNED], candidate)]
    if encoder is not None:
        pieces.append(partial(measure_diversity, job, encoder, ids, sets))
    make_all(pieces)
    measured = Measurements(
        scores={
            reward.name: {m: images.read_scores(reward.name, ids, samples) for m, images in sets.items()}
            for reward in recipe.rewards
        },
        correct={**read_judgments(baseline, samples), **read_judgments(artifact, samples)},
        diversity=None if encoder is None else read_diversity(encoder, artifact, sets),
        same_noise=candidate.existing is None and base.existing is None,
        truncated_prompts=_truncated(recipe, prompts, candidate, base),
    )
    results = {
        "models": {"base": base.name, "tuned": candidate.name},
        **evaluation_results(section, recipe.rewards, prompts, measured, recipe.seed),
        "policy": {name: candidate.record[name] for name in POLICY_FIELDS if name in candidate.record},
    }
    artifact.write_json("results.json", results)
    page = results_page(prompts, recipe.rewards, measured.scores, sets, recipe.generate, results)
    artifact.write_bytes(PAGE, page.encode())
    artifact.commit(_summary(results))


def _truncated(recipe: Recipe, prompts: "Sequence[Prompt]", *candidates: "Candidate") -> int:
    """The number of prompts that the recipe's model cannot read to their end, if a model made the images."""
    from capo.diffusion import load_weightless

    if all(candidate.existing is not None or candidate.whole_model for candidate in candidates):
        return 0
    return sum(load_weightless(recipe.model).truncates([prompt.text for prompt in prompts]))


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompts": results["prompts"],
        "win_rate": {reward["name"]: reward["win_rate"] for reward in results["rewards"]},
        "training_win_rate": results["training_win_rate"]["value"],
        "warnings": results["warnings"],
    }
