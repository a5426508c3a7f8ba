"""Where the images of a study come from: an evaluation that is done, models, or folders of images.

Models sample into the artifact `people/DIGEST` of a run directory, with the noise of the evaluation's first
images: so all models of a study share prompts and noise, and a repeated command samples nothing again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from capo.engine.seeds import stable_seed
from capo.engine.shard_work import Executor
from capo.evaluation.baseline import evaluated_model_inputs
from capo.evaluation.candidate_images import CandidateImages, any_size, make_candidate_images
from capo.evaluation.candidates import Candidate
from capo.evaluation.model_images import TUNED as EVALUATED
from capo.evaluation.model_images import image_sets
from capo.images import open_images
from capo.images.evaluation_import import EvaluationImages, match_images
from capo.images.shard_files import shard_path
from capo.people.build_study import ModelImages
from capo.people.human_study import BASE, TUNED, content_digest
from capo.prompts import Prompt
from capo.recipe import ImagesSection, Recipe
from capo.reporting.examples import read_shown_prompts
from capo.store import Artifact, Run, WorkspaceError
from capo.store.run_directory import RECIPE
from capo.store.step import Job

DEFAULT_PROMPTS = 200
"""As many as in the paper's study (Table 7)."""


def draw_prompts(prompts: Sequence[Prompt], count: int | None, seed: int) -> list[Prompt]:
    """Draw `count` prompts, in the order of their source; by default at most `DEFAULT_PROMPTS`.

    Which ones depends on the prompts and the seed, not on their order. Raises `ValueError` if
    there are fewer.
    """
    wanted = min(DEFAULT_PROMPTS, len(prompts)) if count is None else count
    if wanted > len(prompts):
        raise ValueError(f"--prompts {wanted}: the source has {len(prompts)} prompts; choose fewer")
    order = sorted(prompts, key=lambda prompt: stable_seed("people-prompts", seed, prompt.prompt_id))
    drawn = {prompt.prompt_id for prompt in order[:wanted]}
    return [prompt for prompt in prompts if prompt.prompt_id in drawn]


def has_evaluation(run: Run) -> bool:
    """Report whether a run has a finished evaluation."""
    return run.artifact("baseline").done and run.artifact("evaluate").done


def evaluated_prompts(run: Run) -> list[Prompt]:
    """Return the prompts of a run's evaluation."""
    shown = read_shown_prompts(run.artifact("baseline")).values()
    return [Prompt(prompt.prompt_id, prompt.text, prompt.category) for prompt in shown]


def evaluated(run: Run, shard_prompts: int) -> dict[str, ModelImages]:
    """Return both models of a run's evaluation, with the first image of every prompt."""
    baseline, evaluate = run.artifact("baseline"), run.artifact("evaluate")
    names, sets = evaluate.read_json("results.json")["models"], image_sets(baseline, evaluate)
    prompts, models = evaluated_prompts(run), {}
    for label in (BASE, TUNED):
        images = sets[label]
        reader = ShardReader(images.artifact, images.images, prompts, shard_prompts)
        models[label] = ModelImages(names[label], images.artifact.digest, reader.read)
    return models


def captions(candidate: Candidate) -> list[Prompt]:
    """Return the prompts of images that exist already; raises `ValueError` if they are only numbered."""
    assert candidate.existing is not None
    prompts = list({e.prompt.text: e.prompt for e in open_images(candidate.existing).entries}.values())
    if all(prompt.text.isdecimal() for prompt in prompts):
        raise ValueError(
            f"{candidate.name}: its images are numbered and have no captions; name a recipe with the prompts "
            "as `evaluate.prompts`, or put a prompt.txt into every folder"
        )
    return prompts


def existing(candidate: Candidate, section: ImagesSection, prompts: Sequence[Prompt]) -> ModelImages:
    """Return images that exist already; `prompts` are all of the source, as images may be numbered so.

    Raises `ValueError` if a prompt has none.
    """
    source = open_images(section)
    request = EvaluationImages(
        section, prompts, 1, "the number that a study needs", len(prompts), any_size, "people"
    )
    places = {prompt.prompt_id: images[0] for prompt, images in match_images(request, source)}
    return ModelImages(
        candidate.name, candidate.identity, lambda prompt: source.read(places[prompt.prompt_id])
    )


def sampled(
    recipe: Recipe,
    directory: Path,
    prompts: Sequence[Prompt],
    candidates: Mapping[str, Candidate],
    executor: Executor,
) -> dict[str, ModelImages]:
    """Return images of `prompts` by models, sampling those that the run directory does not have yet.

    Raises `ValueError` before any sampling if a model does not fit the recipe's.
    """
    for candidate in candidates.values():
        candidate.check(recipe.model)
    models = {}
    for label, candidate in candidates.items():
        inputs = evaluated_model_inputs(recipe) | {
            "people.model": candidate.identity,
            "people.prompts": content_digest([prompt.prompt_id for prompt in prompts]),
        }
        name = f"people/{content_digest(inputs)[:16]}"
        if not Run(directory).artifact(name).done:
            known = (directory / RECIPE).exists()
            with Run.open(directory, None if known else recipe) as run:
                run.artifact(name).begin(inputs)
                _sample(Job(recipe, run, (run.artifact(name),), executor), label, candidate, prompts)
        reader = ShardReader(Run(directory).artifact(name), "", prompts, recipe.generate.shard_prompts)
        models[label] = ModelImages(candidate.name, candidate.identity, reader.read)
    return models


def _sample(job: Job, label: str, candidate: Candidate, prompts: Sequence[Prompt]) -> None:
    wanted = CandidateImages(
        purpose="people",
        field="images",
        prompts=prompts,
        samples=1,
        folders={"": EVALUATED.seed_key},
        title=f"images of {label}",
    )
    make_candidate_images(job, wanted, candidate)
    job.artifact.commit({"model": candidate.name, "images": len(prompts)})


class ShardReader:
    """Reads the first image of prompts from shards; fastest in the order of the prompts."""

    def __init__(self, artifact: Artifact, folder: str, order: Sequence[Prompt], shard_prompts: int) -> None:
        self._artifact, self._folder = artifact, folder
        self._shards = {prompt.prompt_id: place // shard_prompts for place, prompt in enumerate(order)}
        self._held: tuple[int, dict[str, bytes]] = (-1, {})

    def read(self, prompt: Prompt) -> bytes:
        """Return the image file; raises `WorkspaceError` if there is none."""
        shard = self._shards[prompt.prompt_id]
        if self._held[0] != shard:
            self._held = shard, self._first_images(shard_path(self._folder, shard))
        if prompt.prompt_id not in self._held[1]:
            place = self._artifact.folder / shard_path(self._folder, shard)
            raise WorkspaceError(f"{place}: no image of prompt {prompt.prompt_id}; evaluate again")
        return self._held[1][prompt.prompt_id]

    def _first_images(self, path: str) -> dict[str, bytes]:
        rows = self._artifact.read_table(path, ["prompt_id", "sample", "image"]).to_pylist()
        return {row["prompt_id"]: row["image"]["bytes"] for row in rows if row["sample"] == 0}
