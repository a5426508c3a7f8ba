"""What a further round starts from: the run directory of the round before it.

RUN/train/best           the policy that makes this round's samples, and that its training goes on from
RUN/scores, RUN/pool     the base's scores of the same prompts, that this round's are calibrated against
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from capo.diffusion.saved import SavedPolicy, find_policy
from capo.engine.seeds import stable_seed
from capo.recipe import Recipe, StartSection, TrainSection
from capo.scoring.score_table import read_scores
from capo.store import Artifact, Run
from capo.store.manifest import alike

if TYPE_CHECKING:
    import pyarrow as pa

ADAPTER = ("lora_rank", "lora_alpha", "lora_targets", "lora_dora")
"""What a round cannot change of the adapter it goes on with."""


@dataclass(frozen=True)
class Start:
    """The round before, trained to the end."""

    run: Run
    policy: SavedPolicy
    reference: Literal["base", "start"]

    @property
    def round(self) -> int:
        """The number of the round that starts here, 2 or more."""
        return int(self.policy.record.get("round", 1)) + 1

    def seed(self, run_seed: int) -> int:
        """Of this round's samples and of its training, so that no noise of the rounds before comes again."""
        return stable_seed("round", self.round, run_seed)

    def pool_identity(self, reward: str, source: Mapping[str, Any]) -> str:
        """A digest of the base's scores by `reward`.

        Raises `ValueError` when there are none, or when they come from another reward than `source`,
        its fields of a fingerprint, says.
        """
        artifact = self._pool(reward)
        manifest = artifact.manifest() if artifact.done else None
        if manifest is None or (self._kept and _file(reward) not in manifest.files):
            raise ValueError(f"start.run: {self.run.path} has no scores of the base by the reward {reward!r}")
        for field, value in source.items():
            if not alike(before := manifest.inputs.get(field), value):
                raise ValueError(
                    f"start.run: {self.run.path} was scored by another reward ({field}: {before} → {value}); "
                    "give it its name and settings back, or start from a first round scored by this one"
                )
        return manifest.files[_file(reward)]["blake2b"] if self._kept else manifest.digest

    def pool_scores(self, reward: str) -> "pa.Table":
        """The base's scores by `reward`: prompt_id, sample, score, error and truncated."""
        artifact = self._pool(reward)
        return artifact.read_table(_file(reward)) if self._kept else read_scores(artifact)

    @property
    def _kept(self) -> bool:
        """Whether the base's scores are in the pool of a round like this; if not, the base was sampled."""
        return self.round > 2

    def _pool(self, reward: str) -> Artifact:
        return self.run.artifact("pool" if self._kept else f"scores/{reward}")


def policy_inputs(recipe: Recipe) -> dict[str, Any]:
    """The part of a fingerprint that says which policy a further round starts from."""
    if recipe.start is None:
        return {}
    return {"start.policy": find_start(recipe, recipe.start).policy.identity}


def find_start(recipe: Recipe, section: StartSection) -> Start:
    """What `section` of `recipe` names.

    Raises `ValueError` for a run that is not trained, or whose policy this recipe cannot go on with.
    """
    run = Run(section.run)
    train = run.artifact("train")
    manifest = train.manifest() if train.done else None
    if manifest is None:
        raise ValueError(
            f"start.run: {run.path} is no run directory whose training is done; run the round before first"
        )
    policy = find_policy(train.folder / "best")
    policy.check_base(recipe.model)
    _check_adaptation(run.path, manifest.inputs, recipe.train)
    samples = run.artifact("samples").manifest()
    if samples is not None and samples.inputs.get("images.source") is not None:
        raise ValueError(f"start.run: {run.path} has images from elsewhere; the pool must be the base's own")
    return Start(run, policy, section.reference)


def _check_adaptation(path: Path, trained: Mapping[str, Any], section: TrainSection) -> None:
    """Raise `ValueError` unless `section` adapts the denoiser as the fingerprint `trained` says."""
    fields = ("adaptation", *(ADAPTER if section.adaptation == "lora" else ()))
    for field in fields:
        before, now = trained.get(f"train.{field}"), section.results()[field]
        if field == "lora_alpha":  # the rank when null
            before, now = before or trained.get("train.lora_rank"), now or section.lora_rank
        if before != now:
            raise ValueError(
                f"train.{field}: {now}, and the policy of {path} was trained with {before}; a round goes on "
                "with the weights of the round before, so set it likewise"
            )


def _file(reward: str) -> str:
    return f"{reward}.parquet"
