"""The scoring loop: score shards of images by several rewards.

It scores samples, validation images, and evaluation images alike. The unit of work is one shard of images
with the rewards that have not scored it yet. A shard is read and decoded once for all of them while the one
before it is being scored, and every reward's scores are written as soon as they are computed, so interrupted
work resumes with the first shard that lacks scores.

Rewards share a pass over the shards as far as their models fit into the device's memory together.
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from capo.engine.device import select_device
from capo.engine.memory import free_memory, release_memory
from capo.engine.prefetch import prefetched
from capo.engine.progress import progress, say
from capo.images.sample_table import kept_columns, kept_scores
from capo.images.shard_files import shard_paths
from capo.recipe import EngineSection, RewardSection
from capo.rewards import Scored, find_entry
from capo.rewards.protocol import RewardMemoryError
from capo.scoring.rater import ImageRows, Rater
from capo.scoring.score_table import score_table
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

WEIGHTS_SHARE = 0.5
"""Share of the free memory that models loaded together may fill; activations need the rest."""

BYTES_PER_MILLION_PARAMETERS = 4e6
"""In float32."""


@dataclass(frozen=True)
class ImageShard:
    """A file of images in an artifact."""

    artifact: Artifact
    path: str

    def read(self, texts: Mapping[str, str], rewards: Sequence[str] = ()) -> ImageRows:
        """Read its images, and the scores that sampling already computed for some of `rewards`.

        `texts` maps prompt ids to prompts.
        """
        columns = ["prompt_id", "sample", "image", *kept_columns(rewards)]
        rows = self.artifact.read_table(self.path, columns)
        return ImageRows(rows, [texts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()])


class Destination(Protocol):
    """Stores the scores of one reward, one table per shard."""

    @property
    def section(self) -> RewardSection:
        """The reward."""

    def has(self, shard: ImageShard) -> bool:
        """Report whether all scores of a shard are stored, without a missing one."""

    def write(self, shard: ImageShard, table: "pa.Table") -> None:
        """Keep the scores of a shard."""

    def finish(self) -> None:
        """Complete the scores, once every shard has its table."""


@dataclass(frozen=True)
class Unit:
    """A unit of work: one shard, and the destinations that lack its scores, by reward name."""

    shard: ImageShard
    destinations: Mapping[str, Destination]


@dataclass(frozen=True)
class ReadUnit:
    """A unit whose images are in memory, and the scores that are known without computing them."""

    unit: Unit
    images: ImageRows
    known: Mapping[str, list[Scored | None]]


class ShardScorer:
    """Several rewards on one device, which score one unit after another."""

    def __init__(
        self, rewards: Sequence[RewardSection], texts: Mapping[str, str], device: "torch.device"
    ) -> None:
        self._raters = {section.name: Rater(section, device) for section in rewards}
        self._texts = texts

    def read(self, unit: Unit) -> ReadUnit:
        """Read a unit's images and decode them if a reward must score any of them."""
        images = unit.shard.read(self._texts, list(unit.destinations))
        known = {name: self._known(name, images) for name in unit.destinations}
        if any(None in scores for scores in known.values()):
            _ = images.images
        return ReadUnit(unit, images, known)

    def score(self, read: ReadUnit, reward: str) -> None:
        """Score a unit by one reward and write the table."""
        scored = self._raters[reward].score(read.images, read.known[reward])
        read.unit.destinations[reward].write(read.unit.shard, score_table(read.images.rows, scored))

    def _known(self, name: str, images: ImageRows) -> list[Scored | None]:
        kept = kept_scores(images.rows, name)
        if None not in kept:
            return kept
        cached = self._raters[name].cached(images)
        return [first or second for first, second in zip(kept, cached, strict=True)]


def image_shards(artifact: Artifact, folder: str = "") -> list[ImageShard]:
    """The shards of images in a folder of an artifact; `WorkspaceError` when it has none."""
    return [ImageShard(artifact, path) for path in shard_paths(artifact, folder)]


def missing_units(shards: Sequence[ImageShard], destinations: Sequence[Destination]) -> list[Unit]:
    """The work that is left: every shard that some destination lacks scores of, in order."""
    units = [Unit(s, {d.section.name: d for d in destinations if not d.has(s)}) for s in shards]
    return [unit for unit in units if unit.destinations]


def score_shards(
    shards: Sequence[ImageShard],
    destinations: Sequence[Destination],
    texts: Mapping[str, str],
    engine: EngineSection,
    title: str,
) -> dict[str, float]:
    """Score all shards by the rewards of all destinations, resuming after the shards that have scores.

    `texts` maps prompt ids to prompts; `title` starts the names of the progress bars. Returns the seconds
    spent on every reward, by name; time that rewards share is split evenly.
    """
    started = time.monotonic()
    loop = _Loop(shards, texts, engine, title, {d.section.name: 0.0 for d in destinations})
    for group in _groups(destinations, free_memory(engine)):
        if not loop.fits(group):
            # By now, nothing holds memory of the failed attempt, not even its exception.
            _free_memory()
            for destination in group:
                loop.run([destination])
    shared = (time.monotonic() - started - sum(loop.seconds.values())) / len(loop.seconds)
    return {name: own + shared for name, own in loop.seconds.items()}


@dataclass(frozen=True)
class _Loop:
    """Passes over the shards."""

    shards: Sequence[ImageShard]
    texts: Mapping[str, str]
    engine: EngineSection
    title: str
    seconds: dict[str, float]
    """Time spent on every reward alone, by name."""

    def fits(self, destinations: Sequence[Destination]) -> bool:
        """Make a pass with several rewards; False when the device has too little memory for all of them."""
        try:
            self.run(destinations)
        except RewardMemoryError as error:
            if len(destinations) == 1:
                raise
            say(f"{error}; loading one model at a time instead")
            return False
        return True

    def run(self, destinations: Sequence[Destination]) -> None:
        """Make a pass over the shards and finish the destinations."""
        rewards = [destination.section for destination in destinations]
        scorer = ShardScorer(rewards, self.texts, select_device(self.engine))
        units = missing_units(self.shards, destinations)
        with ExitStack() as stack:
            bars = {
                reward.name: stack.enter_context(
                    progress(f"{self.title}: {reward.name}", len(self.shards), "shards")
                )
                for reward in rewards
            }
            for name, bar in bars.items():
                bar.advance(len(self.shards) - sum(name in unit.destinations for unit in units), resumed=True)
            for read in stack.enter_context(prefetched(scorer.read, units, ahead=1)):
                for name, known in read.known.items():
                    started = time.monotonic()
                    scorer.score(read, name)
                    self.seconds[name] += time.monotonic() - started
                    bars[name].advance(resumed=None not in known)
        for destination in destinations:
            destination.finish()
        del scorer
        _free_memory()


def _groups(destinations: Sequence[Destination], free: float) -> Iterator[list[Destination]]:
    """Split the destinations, in order, into groups whose weights fit into `free` bytes together."""
    group: list[Destination] = []
    used = 0.0
    for destination in destinations:
        size = _weight_bytes(destination.section)
        if group and used + size > WEIGHTS_SHARE * free:
            yield group
            group, used = [], 0.0
        group.append(destination)
        used += size
    yield group


def _weight_bytes(reward: RewardSection) -> float:
    """The size of a shipped reward's weights; 0 if the size is unknown or another process loads them."""
    entry = find_entry(reward.source or reward.name)
    if reward.command or reward.url or entry is None:
        return 0.0
    return BYTES_PER_MILLION_PARAMETERS * entry.parameters_millions


def _free_memory() -> None:
    gc.collect()
    release_memory()
