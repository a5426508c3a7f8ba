"""The images of a run by what they are for: samples, validation, evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capo.images.shard_files import shard_paths
from capo.reporting.examples import ShownPrompt, read_shown_prompts
from capo.reporting.image_purposes import SOURCES, Purpose
from capo.scoring.validation_folders import validated_folders
from capo.store import Artifact, Run, WorkspaceError


@dataclass(frozen=True)
class StoredImage:
    """An image file of a run."""

    prompt: ShownPrompt
    sample: int
    data: bytes
    scores: Mapping[str, float | None]
    """Raw scores by reward; None where one is missing."""


@dataclass(frozen=True)
class StoredImages:
    """The images that one model made of some prompts; `model` is base, tuned, null or step-000100."""

    model: str
    prompts: Mapping[str, ShownPrompt]
    artifact: Artifact
    folder: str
    scores: Mapping[str, tuple[Artifact, str]]
    """By reward: the artifact and the folder or table of its scores."""

    def __iter__(self) -> Iterator[StoredImage]:
        """Yield the images in order, reading one shard at a time."""
        for path in shard_paths(self.artifact, self.folder):
            rows = self.artifact.read_table(path, ["prompt_id", "sample", "image"]).to_pylist()
            scores = {reward: self._scores(*place, path) for reward, place in self.scores.items()}
            for row in rows:
                key = row["prompt_id"], row["sample"]
                named = {reward: known.get(key) for reward, known in scores.items()}
                yield StoredImage(self.prompts[key[0]], key[1], row["image"]["bytes"], named)

    def _scores(self, artifact: Artifact, place: str, shard: str) -> dict[tuple[str, int], float | None]:
        """Return the scores in a table, or in the table of a shard of samples."""
        table = artifact.read_table(place or shard, ["prompt_id", "sample", "score"])
        return {(row["prompt_id"], row["sample"]): row["score"] for row in table.to_pylist()}


def run_images(run: Run, rewards: Sequence[str], purpose: Purpose) -> list[StoredImages]:
    """Return the images of a run for `purpose`, with scores by `rewards`.

    Raises `WorkspaceError` if they are not made yet.
    """
    _require(run, purpose)
    if purpose == "samples":
        places = {name: (run.artifact(f"scores/{name}"), "") for name in rewards}
        scored = {name: place for name, place in places.items() if place[0].done}
        prompts = read_shown_prompts(run.artifact("prompts"))
        return [StoredImages("base", prompts, run.artifact("samples"), "", scored)]
    if purpose == "validation":
        first, train = run.artifact("validation"), run.artifact("train")
        models = {"base": (first, "base", "base/scores")}
        for step, folder in validated_folders(train).items():
            models[f"step-{step:06d}"] = (train, folder, f"{folder}/scores")
        return _models(first, models, rewards)
    first = run.artifact("baseline")
    artifacts = {"base": first, "tuned": run.artifact("evaluate"), "null": first}
    models = {name: (where, f"images/{name}", f"scores/{name}") for name, where in artifacts.items()}
    return _models(first, models, rewards)


def _models(
    first: Artifact, places: Mapping[str, tuple[Artifact, str, str]], rewards: Sequence[str]
) -> list[StoredImages]:
    """Return the images of every model that has some; the artifact `first` has the prompts."""
    prompts, found = read_shown_prompts(first), []
    for model, (artifact, folder, scores) in places.items():
        tables = {name: (artifact, f"{scores}/{name}.parquet") for name in rewards}
        known = {name: place for name, place in tables.items() if artifact.has(place[1])}
        if artifact.has(folder):
            found.append(StoredImages(model, prompts, artifact, folder, known))
    return found


def _require(run: Run, purpose: Purpose) -> None:
    if missing := SOURCES[purpose].missing(run):
        raise WorkspaceError(
            f"{run.path} has no images of {purpose} yet: {missing[0]} is not done; "
            f"run `capo {SOURCES[purpose].command}`"
        )


def row_of(images: StoredImages, image: StoredImage) -> dict[str, Any]:
    """Return what is known about an image, for a table."""
    row = {"text": image.prompt.text, "category": image.prompt.category, "prompt_id": image.prompt.prompt_id}
    scores = {f"score_{reward}": score for reward, score in image.scores.items()}
    return row | {"sample": image.sample, "model": images.model} | scores
