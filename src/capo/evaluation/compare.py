"""The tuned model against its base on prompts of their own (App. B.2).

What it is compared with are the images and scores of the `baseline`. Base and tuned share their
seeds, so their images of a prompt can be shown side by side.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from capo.evaluation.candidates import against, tuned
from capo.evaluation.measure_diversity import measure_diversity
from capo.evaluation.model_images import EvaluatedModel, image_sets, measure, read_judgments
from capo.evaluation.win_rates import results
from capo.prompts import Prompt, load_prompts
from capo.recipe import ImagesSection, Recipe
from capo.scoring.image_sets import ImageSet
from capo.store import Artifact, Run
from capo.store.manifest import versions

TUNED = EvaluatedModel("tuned", "evaluate")

PAGE = "index.html"


def compare_models(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Images of the tuned model, their scores, judgements, `results.json` and a page of both models.

    A score that is missing is left out of the win-rates and counted.
    """
    prompts = load_prompts(recipe.evaluate.prompts, recipe.seed, "evaluate.prompts")
    candidate, base = tuned(recipe, run), against(recipe)
    measure(recipe, artifact, prompts, [TUNED], candidate)
    sets = image_sets(run.artifact("baseline"), artifact)
    ids, samples = [prompt.prompt_id for prompt in prompts], recipe.evaluate.samples_per_prompt
    scores = {
        reward.name: {model: images.read_scores(reward.name, ids, samples) for model, images in sets.items()}
        for reward in recipe.rewards
    }
    correct = {**read_judgments(sets["base"].artifact, samples), **read_judgments(artifact, samples)}
    diversity = measure_diversity(recipe, artifact, ids, sets)
    made = not any(isinstance(each.source, ImagesSection) for each in (candidate, base))
    names = {"base": base.name, "tuned": candidate.name}
    found = {"models": names} | results(recipe, prompts, scores, correct or None, diversity, same_noise=made)
    told = ("step", "adaptation", "soup")
    found["policy"] = {name: candidate.record[name] for name in told if name in candidate.record}
    artifact.write_json("results.json", found)
    artifact.write_bytes(PAGE, _page(recipe, prompts, scores, sets, found).encode())
    artifact.commit(
        {
            "prompts": found["prompts"],
            "win_rate": {reward["name"]: reward["win_rate"] for reward in found["rewards"]},
            "training_win_rate": found["training_win_rate"]["value"],
            "warnings": found["warnings"],
        }
    )


def _page(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    sets: Mapping[str, ImageSet],
    found: Mapping[str, object],
) -> str:
    from capo.reporting.evaluation_page import render_evaluation
    from capo.reporting.examples import ShownPrompt
    from capo.reporting.extremes import Scores, extremes
    from capo.reporting.pictures import Gallery
    from capo.reporting.results_schema import Results

    shown = [ShownPrompt(prompt.prompt_id, prompt.text, prompt.category) for prompt in prompts]
    rewards = [
        Scores(reward.name, reward.use, scores[reward.name]["base"], scores[reward.name]["tuned"])
        for reward in recipe.rewards
    ]
    ids, size = [prompt.prompt_id for prompt in prompts], recipe.generate.shard_prompts
    galleries = {
        model: Gallery(sets[model].artifact, sets[model].images, ids, size) for model in ("base", "tuned")
    }
    return render_evaluation(Results.model_validate(found), extremes(shown, rewards, galleries), versions())
