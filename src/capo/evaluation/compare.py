"""The tuned model against its base on prompts of their own (App. B.2).

What it is compared with are the images and scores of the `baseline`. Base and tuned share their
seeds, so their images of a prompt can be shown side by side.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from capo.evaluation.candidates import against, tuned
from capo.evaluation.measure_diversity import measure_diversity
from capo.evaluation.measuring import Model, measure, measured, read_judgements, read_scores
from capo.evaluation.win_rates import results
from capo.prompts import Prompt, load_prompts
from capo.recipe import ImagesSection, Recipe
from capo.store import Artifact, Run
from capo.store.manifest import versions

TUNED = Model("tuned", "evaluate")

PAGE = "index.html"


def compare_models(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Images of the tuned model, their scores, judgements, `results.json` and a page of both models.

    A score that is missing is left out of the win-rates and counted.
    """
    prompts = load_prompts(recipe.evaluate.prompts, recipe.seed, "evaluate.prompts")
    candidate, base = tuned(recipe, run), against(recipe)
    measure(recipe, artifact, prompts, [TUNED], candidate)
    homes = {model: home for home in (run.artifact("baseline"), artifact) for model in measured(home)}
    ids, samples = [prompt.prompt_id for prompt in prompts], recipe.evaluate.samples_per_prompt
    scores = {
        reward.name: {
            model: read_scores(home, model, reward.name, ids, samples) for model, home in homes.items()
        }
        for reward in recipe.rewards
    }
    correct = {**read_judgements(homes["base"], samples), **read_judgements(artifact, samples)}
    diversity = measure_diversity(recipe, artifact, ids, homes)
    made = not any(isinstance(each.source, ImagesSection) for each in (candidate, base))
    names = {"base": base.name, "tuned": candidate.name}
    found = {"models": names} | results(recipe, prompts, scores, correct or None, diversity, same_noise=made)
    told = ("step", "adaptation", "soup")
    found["policy"] = {name: candidate.record[name] for name in told if name in candidate.record}
    artifact.write_json("results.json", found)
    artifact.write_bytes(PAGE, _page(recipe, prompts, scores, homes, found).encode())
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
    homes: Mapping[str, Artifact],
    found: Mapping[str, object],
) -> str:
    from capo.reporting.evaluation_page import render_evaluation
    from capo.reporting.examples import Shown
    from capo.reporting.extremes import Scores, extremes
    from capo.reporting.pictures import Gallery
    from capo.reporting.results_schema import Results

    shown = [Shown(prompt.prompt_id, prompt.text, prompt.category) for prompt in prompts]
    rewards = [
        Scores(reward.name, reward.use, scores[reward.name]["base"], scores[reward.name]["tuned"])
        for reward in recipe.rewards
    ]
    ids, size = [prompt.prompt_id for prompt in prompts], recipe.generate.shard_prompts
    galleries = {model: Gallery(homes[model], f"images/{model}", ids, size) for model in ("base", "tuned")}
    return render_evaluation(Results.model_validate(found), extremes(shown, rewards, galleries), versions())
