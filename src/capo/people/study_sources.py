"""Where the images of a study come from: an evaluation that is done, or any models and folders of images."""

from collections.abc import Sequence

from capo.engine.seeds import stable_seed
from capo.evaluation.model_images import image_sets
from capo.images.shard_files import shard_path
from capo.people.build_study import BASE, TUNED, ModelImages
from capo.prompts import Prompt
from capo.reporting.examples import read_prompts
from capo.store import Artifact, Run, WorkspaceError

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


def evaluated(run: Run, shard_prompts: int) -> tuple[list[Prompt], dict[str, ModelImages]]:
    """Return the prompts and both models of a run's evaluation; of every prompt the first image.

    Raises `WorkspaceError` if the evaluation is not done.
    """
    baseline, evaluate = run.artifact("baseline"), run.artifact("evaluate")
    if not baseline.done or not evaluate.done:
        raise WorkspaceError(
            f"{run.path} has no finished evaluation; run `capo evaluate` first, or name models with --base "
            "and --tuned"
        )
    prompts = [Prompt(p.prompt_id, p.text, p.category) for p in read_prompts(baseline).values()]
    names, sets = evaluate.read_json("results.json")["models"], image_sets(baseline, evaluate)
    models = {}
    for label in (BASE, TUNED):
        images = sets[label]
        reader = ShardReader(images.artifact, images.images, prompts, shard_prompts)
        models[label] = ModelImages(names[label], images.artifact.digest, reader.read)
    return prompts, models


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
            raise WorkspaceError(
                f"{place}: no image of prompt {prompt.prompt_id}; evaluate again with --force"
            )
        return self._held[1][prompt.prompt_id]

    def _first_images(self, path: str) -> dict[str, bytes]:
        rows = self._artifact.read_table(path, ["prompt_id", "sample", "image"]).to_pylist()
        return {row["prompt_id"]: row["image"]["bytes"] for row in rows if row["sample"] == 0}
