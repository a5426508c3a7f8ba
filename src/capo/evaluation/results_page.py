"""The page `evaluate/index.html`: the numbers, and the biggest wins and losses by every reward."""

from collections.abc import Mapping, Sequence

import numpy as np

from capo.prompts import Prompt
from capo.recipe import GenerateSection, RewardSection
from capo.reporting.evaluation_page import render_evaluation
from capo.reporting.examples import ShownPrompt
from capo.reporting.extremes import Scores, extremes
from capo.reporting.pictures import Gallery
from capo.reporting.results_schema import Results
from capo.scoring.image_sets import ImageSet
from capo.store.manifest import versions


def results_page(
    prompts: Sequence[Prompt],
    rewards: Sequence[RewardSection],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    sets: Mapping[str, ImageSet],
    settings: GenerateSection,
    results: Mapping[str, object],
) -> str:
    """The page as HTML.

    `scores` are by reward and model [P, K]; `sets` has the images of every model, made with `settings`.
    """
    titles = [ShownPrompt(prompt.prompt_id, prompt.text, prompt.category) for prompt in prompts]
    of_rewards = [
        Scores(reward.name, reward.use, scores[reward.name]["base"], scores[reward.name]["tuned"])
        for reward in rewards
    ]
    ids, size = [prompt.prompt_id for prompt in prompts], settings.shard_prompts
    galleries = {
        model: Gallery(sets[model].artifact, sets[model].images, ids, size) for model in ("base", "tuned")
    }
    examples = extremes(titles, of_rewards, galleries)
    return render_evaluation(Results.model_validate(results), examples, versions())
