"""Make a study of the models that a command names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capo.engine.executors import open_executor
from capo.engine.shard_work import Executor
from capo.evaluation.candidates import Candidate, base_model, find_candidate, trained
from capo.people.build_study import ModelImages, StudySettings, build_study, check_settings
from capo.people.human_study import BASE, TUNED, HumanStudy
from capo.people.study_sources import (
    captions,
    draw_prompts,
    evaluated,
    evaluated_prompts,
    existing,
    has_evaluation,
    sampled,
)
from capo.prompts import Prompt, load_prompts
from capo.recipe import Recipe
from capo.store import Run


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What a study compares."""

    recipe: Recipe
    directory: Path
    """A run directory: of the evaluation, or for the images that models sample."""
    base: str | None = None
    """The model that the others are compared with: of the evaluation, or else the recipe's, if None."""
    tuned: str | None = None
    """The model compared with it: of the evaluation, or else the policy that the run trained, if None."""
    more: Sequence[str] = ()
    prompts: int | None = None
    own_prompts: bool = True
    """False if the recipe was not named: its prompts do not count if some images have captions."""
    changed: bool = False
    """True if the recipe was changed for this study, so that images made before do not fit it."""


def make_study(to: Path, request: StudyRequest, settings: StudySettings) -> HumanStudy:
    """Create the folder of a study, after making the images that are missing.

    Raises `ValueError` before any sampling if a model does not fit, or the study cannot be made.
    """
    with open_executor(request.recipe.engine, request.directory) as executor:
        return executor.in_main(lambda: _make(to, request, settings, executor))


def _make(to: Path, request: StudyRequest, settings: StudySettings, executor: Executor) -> HumanStudy:
    run, recipe = Run(request.directory), request.recipe
    labels = [BASE, TUNED, *(f"more{n}" for n, _ in enumerate(request.more, start=1))]
    named = dict(zip(labels, (request.base, request.tuned, *request.more), strict=True))
    models = _from_evaluation(request, named, run)
    candidates = {
        label: _candidate(label, value, request, run) for label, value in named.items() if label not in models
    }
    _check_distinct(
        {label: (candidates[label] if label in candidates else models[label]).identity for label in labels}
    )
    prompts = _prompts(request, candidates, run if models else None)
    drawn = draw_prompts(prompts, request.prompts, settings.seed)
    check_settings(to, settings, len(drawn) * (len(labels) - 1))
    to_sample = {label: c for label, c in candidates.items() if c.existing is None}
    for label, candidate in candidates.items():
        if candidate.existing is not None:
            models[label] = existing(candidate, candidate.existing, prompts)
    if to_sample:
        models |= sampled(recipe, request.directory, drawn, to_sample, executor)
    return build_study(to, drawn, {label: models[label] for label in labels}, settings)


def _from_evaluation(request: StudyRequest, named: dict[str, str | None], run: Run) -> dict[str, ModelImages]:
    """Return the models whose images a finished evaluation of the run has."""
    if not has_evaluation(run):
        return {}
    models = evaluated(run, request.recipe.generate.shard_prompts)
    own = request.recipe.evaluate.policy is None and _is_run(named[TUNED], run)
    kept = {BASE: named[BASE] is None, TUNED: named[TUNED] is None or own}
    if any(kept.values()) and request.changed:
        raise ValueError(
            f"--set: the images of the evaluation in {run.path} were made without it; leave it out, or name "
            "both --base and --tuned"
        )
    return {label: model for label, model in models.items() if kept[label]}


def _check_distinct(identities: dict[str, str]) -> None:
    """Raise `ValueError` if two models are the same; `identities` are by label."""
    first: dict[str, str] = {}
    for label, identity in identities.items():
        same = first.setdefault(identity, label)
        if same != label:
            raise ValueError(f"{_option(same)} and {_option(label)} name the same model; name another one")


def _option(label: str) -> str:
    return f"--{label.rstrip('0123456789')}"


def _is_run(value: str | None, run: Run) -> bool:
    return value is not None and Path(value).resolve() == run.path.resolve()


def _candidate(label: str, value: str | None, request: StudyRequest, run: Run) -> Candidate:
    if value is not None:
        return find_candidate(_option(label), value)
    if label == BASE:
        return base_model(request.recipe.model)
    if not run.artifact("train").done:
        raise ValueError(f"--tuned: {run.path} has neither an evaluation nor a trained policy; name a model")
    return trained(run.artifact("train"))


def _prompts(request: StudyRequest, candidates: dict[str, Candidate], evaluation: Run | None) -> list[Prompt]:
    """Return the prompts to draw from: of the evaluation, of the recipe, or the captions of images."""
    if evaluation is not None:
        return evaluated_prompts(evaluation)
    images = [candidate for candidate in candidates.values() if candidate.existing is not None]
    if images and not request.own_prompts:
        return captions(images[0])
    return load_prompts(request.recipe.evaluate.prompts, request.recipe.seed, "evaluate.prompts")
