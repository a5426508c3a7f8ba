"""Checks of what an evaluation needs, before a run: prompts, judge, candidates, rewards, and weights."""

from collections.abc import Iterator
from functools import partial

from capo.diffusion.model_checks import length_check, model_check, model_facts
from capo.evaluation.candidates import check_candidates, find_candidate
from capo.pretrained.hub_access import find_repository
from capo.prompts import load_prompts
from capo.prompts.prompt_checks import Load, check_prompts, load_texts, on_hub
from capo.recipe import EvaluateSection, Recipe
from capo.recipe.hub_id import split_revision
from capo.rewards.reward_checks import reward_check
from capo.rewards.weights.location import check_location, is_downloaded, with_commit
from capo.sampling.collect_prompts import training_texts
from capo.sampling.shard_check import shard_check
from capo.scoring.judging import check_judgeable, check_size, load_judge
from capo.store import Run
from capo.store.check import Check, Finding
from capo.store.engine_checks import engine_checks

PROMPTS = "evaluate.prompts"


def evaluation_checks(recipe: Recipe, run: Run) -> list[Check]:
    """The checks of both halves of an evaluation."""
    section, samples = recipe.evaluate, recipe.evaluate.samples_per_prompt
    find = partial(check_prompts, section.prompts, recipe.seed, PROMPTS, _other_prompts(recipe, run))
    found = [
        Check(PROMPTS, "evaluate", find, machine=on_hub(section.prompts)),
        shard_check(recipe, "evaluate.samples_per_prompt", section.prompts.count, samples, "evaluate"),
        *(reward_check(reward, "evaluate") for reward in recipe.rewards),
        *engine_checks(recipe.engine, "evaluate"),
    ]
    if section.judge is not None:
        found.append(Check("evaluate.judge", "evaluate", partial(_check_judge, recipe)))
    if section.policy is not None or section.against is not None:
        find_candidates = partial(check_candidates, recipe)
        found.append(Check("evaluate.policy", "evaluate", find_candidates, machine=True))
    if section.embedder is not None:
        embedder = partial(_check_embedder, section.embedder)
        found.append(Check("evaluate.embedder", "evaluate", embedder, machine=True))
    if _uses_model(section):
        texts = partial(load_texts, section.prompts, recipe.seed, PROMPTS)
        found.append(model_check(recipe.model, recipe.generate, recipe.train, "evaluate"))
        found.append(length_check(recipe.model, PROMPTS, texts, "evaluate"))
    return found


def _other_prompts(recipe: Recipe, run: Run) -> dict[str, Load]:
    """The sets that evaluation prompts should be disjoint from; none if the run trains no model."""
    if recipe.evaluate.policy is not None:
        return {}
    others: dict[str, Load] = {"prompts": partial(training_texts, recipe, run)}
    field, validation = "train.validation_prompts", recipe.train.validation_prompts
    if validation is not None:
        others[field] = partial(load_texts, validation, recipe.seed, field)
    return others


def _check_judge(recipe: Recipe) -> None:
    section = recipe.evaluate
    assert section.judge is not None
    load_judge(section.judge)  # first: an unknown judge is reported even if the prompts cannot be read
    check_judgeable(section, load_prompts(section.prompts, recipe.seed, PROMPTS))
    size = model_facts(recipe.model, recipe.generate, recipe.train).image_size
    if size is not None and section.against is None:
        check_size(section.judge, size, "this model makes")


def _check_embedder(location: str) -> Iterator[Finding]:
    check_location("evaluate.embedder", location)
    if not is_downloaded(location):
        repository = find_repository(*split_revision(with_commit(location)))
        yield Finding("evaluate.embedder", f"{location} will be downloaded ({repository})", "note")


def _uses_model(section: EvaluateSection) -> bool:
    """Return whether a candidate needs the recipe's model: always, unless both bring images of their own."""
    for field, value in (("evaluate.policy", section.policy), ("evaluate.against", section.against)):
        if value is None:
            return True
        try:
            candidate = find_candidate(field, value)
        except (ValueError, OSError):  # reported by the check of the candidates
            continue
        if candidate.existing is None and not candidate.whole_model:
            return True
    return False
