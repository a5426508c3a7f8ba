"""The round that a further round starts from, and what is read from its run directory.

RUN/train/best           the policy that makes this round's samples and that training continues
RUN/scores, RUN/pool     the base model's scores for the same prompts, against which scores are calibrated
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from capo.diffusion.saved import BEST, SavedPolicy, find_policy
from capo.engine.seeds import stable_seed
from capo.recipe import ModelSection, StartSection, TrainSection
from capo.scoring.score_table import read_scores
from capo.store import Artifact, Run
from capo.store.manifest import alike, identify

if TYPE_CHECKING:
    import pyarrow as pa

ADAPTER_FIELDS = ("lora_rank", "lora_alpha", "lora_targets", "lora_dora")
"""Fields of `train` that shape the adapter and therefore cannot change between rounds."""


@dataclass(frozen=True)
class PreviousRound:
    """A finished round, from which the next one starts."""

    run: Run
    policy: SavedPolicy
    reference: Literal["base", "start"]
    """The reference of the next round: the base model, or this round's policy."""

    @property
    def next_round(self) -> int:
        """The number of the round that starts here, 2 or more."""
        return int(self.policy.record.get("round", 1)) + 1

    def seed(self, run_seed: int) -> int:
        """The seed of the next round's samples and training; no earlier round has used its noise."""
        return stable_seed("round", self.next_round, run_seed)

    def pool_identity(self, reward: str, source: Mapping[str, Any]) -> str:
        """A digest of the base model's scores by `reward`.

        Raises `ValueError` when they are missing, or were made by a reward other than the one that the
        fingerprint fields `source` describe.
        """
        artifact = self._pool(reward)
        manifest = artifact.manifest() if artifact.done else None
        if manifest is None or (self._has_pool and _pool_file(reward) not in manifest.files):
            raise ValueError(
                f"start.run: {self.run.path} has no scores of the base model by the reward {reward!r}"
            )
        for field, value in source.items():
            if not alike(before := manifest.inputs.get(field), value):
                raise ValueError(
                    f"start.run: {self.run.path} was scored by another reward ({field}: {before} → {value}); "
                    "restore its name and settings, or start from a first round that this reward scored"
                )
        return manifest.files[_pool_file(reward)]["blake2b"] if self._has_pool else manifest.digest

    def pool_scores(self, reward: str) -> "pa.Table":
        """The base model's scores by `reward`: prompt_id, sample, score, error, and truncated."""
        artifact = self._pool(reward)
        return artifact.read_table(_pool_file(reward)) if self._has_pool else read_scores(artifact)

    @property
    def _has_pool(self) -> bool:
        """True if this round was itself a further round; a first round samples the base model itself."""
        return self.next_round > 2

    def _pool(self, reward: str) -> Artifact:
        return self.run.artifact("pool" if self._has_pool else f"scores/{reward}")


def start_inputs(start: StartSection | None, model: ModelSection, train: TrainSection) -> dict[str, Any]:
    """The part of a fingerprint that identifies the policy a further round starts from; empty otherwise."""
    if start is None:
        return {}
    return {
        "start.policy": identify(
            "start.run", lambda: find_previous_round(start, model, train).policy.identity
        )
    }


def find_previous_round(start: StartSection, model: ModelSection, train: TrainSection) -> PreviousRound:
    """Open the round that `start` names.

    Raises `ValueError` for a run that has not been trained, and for a policy that a round with these `model`
    and `train` sections cannot continue.
    """
    run = Run(start.run)
    artifact = run.artifact("train")
    manifest = artifact.manifest() if artifact.done else None
    if manifest is None:
        raise ValueError(
            f"start.run: {run.path} is not a run directory with a finished training; finish that round first"
        )
    policy = find_policy(artifact.folder / BEST)
    policy.check_base(model)
    _check_adaptation(run.path, manifest.inputs, train)
    samples = run.artifact("samples").manifest()
    if samples is not None and samples.inputs.get("images.source") is not None:
        raise ValueError(
            f"start.run: {run.path} was trained on existing images; a further round needs samples of the "
            "base model as its pool"
        )
    return PreviousRound(run, policy, start.reference)


def _check_adaptation(path: Path, trained: Mapping[str, Any], section: TrainSection) -> None:
    """Raise `ValueError` unless `section` adapts the denoiser as the fingerprint `trained` says."""
    fields = ("adaptation", *(ADAPTER_FIELDS if section.adaptation == "lora" else ()))
    for field in fields:
        before, now = trained.get(f"train.{field}"), section.results()[field]
        if field == "lora_alpha":  # null means the rank
            before, now = before or trained.get("train.lora_rank"), now or section.lora_rank
        if before != now:
            raise ValueError(
                f"train.{field} is {now}, but the policy of {path} was trained with {before}; a further "
                "round continues with its weights, so set the same value"
            )


def _pool_file(reward: str) -> str:
    return f"{reward}.parquet"
