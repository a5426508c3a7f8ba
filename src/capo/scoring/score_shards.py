"""Scoring: shards of images, scored by several rewards.

Samples, validation images and evaluation images are scored alike. A shard of work is a shard of images with
the rewards that have not scored it yet. It is read and decoded once for all of them while the one before it
is being scored, and every reward's scores are written as soon as they are computed, so interrupted work
resumes with the first table that is missing.

Rewards share a pass over the shards as far as their models fit into the device's memory together.
"""

import gc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from capo.engine.device import select_device
from capo.engine.memory import release_memory
from capo.engine.prefetch import prefetched
from capo.engine.progress import say
from capo.engine.shard_work import Done, Executor, ShardsFailed, Workplace, errors_of
from capo.images.sample_table import kept_columns, kept_scores
from capo.images.shard_files import shard_paths
from capo.recipe import EngineSection, RewardSection
from capo.rewards import Scored, build_comparison, reject_negative, shipped_entry
from capo.rewards.protocol import RewardMemoryError
from capo.scoring.rater import ImageRows, Rater
from capo.scoring.score_table import Gaps, find_gaps, score_table, score_values
from capo.store import Artifact
from capo.store.run_directory import Run, RunAccess
from capo.store.step import make_all

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class ScoreFiles:
    """Where the tables of a reward's scores are written, one per shard of images. Picklable."""

    reward: RewardSection
    artifact: str | None
    """The artifact of all tables; None for the one that the images are in."""
    folder: str
    """The folder in it, which repeats the paths of the images."""
    compared: bool = False
    """True if scores that the reward's comparison cannot take are an error."""

    def place(self, run: Run, artifact: str, path: str) -> tuple[Artifact, str]:
        """Return the artifact and the path of the table for the images at `path` of `artifact`."""
        return run.artifact(self.artifact or artifact), f"{self.folder}{path}"


class Destination(Protocol):
    """Collects the scores of one reward in the main process."""

    @property
    def files(self) -> ScoreFiles:
        """Where the tables are."""

    def has(self, shard: ImageShard) -> bool:
        """Report whether all scores of a shard are stored, without a missing one."""

    def add(self, gaps: Gaps) -> None:
        """Learn about the missing scores of a table that was written; raises if they are too many."""

    def finish(self) -> None:
        """Complete the scores, once every shard has its table."""


@dataclass(frozen=True)
class Scoring:
    """The work of scoring `images` by `rewards`; a shard is a place in `images`. Picklable."""

    title: str
    access: RunAccess
    images: Sequence[tuple[str, str]]
    """Artifact and path of every shard of images."""
    lacking: Mapping[int, Sequence[str]]
    """The rewards that have not scored a shard, for all shards where some have not."""
    rewards: Sequence[ScoreFiles]
    texts: Mapping[str, str]
    """The prompts by their ids."""
    engine: EngineSection

    unit = "shards"

    @property
    def resources(self) -> Mapping[str, float]:
        """What a worker takes of a Ray cluster; the rewards agree on it."""
        return self.rewards[0].reward.resources

    @property
    def total(self) -> int:
        """The number of shards of images."""
        return len(self.images)

    def size(self, shard: int) -> int:
        """Return 1."""
        return 1

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[ShardScorer]":
        """Prepare the rewards; their models are loaded when the first score must be computed."""
        yield ShardScorer(self, self.access.open(place.writer), select_device(self.engine), place)
        _free_memory()


@dataclass(frozen=True)
class _Read:
    """A shard whose images are in memory, and the scores that are known without computing them."""

    shard: int
    started: float
    images: ImageRows
    known: Mapping[str, list[Scored | None]]


class ShardScorer:
    """Several rewards on one device, which score one shard after another."""

    def __init__(self, work: Scoring, run: Run, device: "torch.device", place: Workplace) -> None:
        self._work, self._run, self._place = work, run, place
        self._raters = {files.reward.name: Rater(files.reward, device) for files in work.rewards}
        self._files = {files.reward.name: files for files in work.rewards}
        self._comparisons = {f.reward.name: build_comparison(f.reward) for f in work.rewards if f.compared}

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Score shards; the images of the next one are read and decoded meanwhile."""
        with prefetched(self._read, shards, ahead=1) as ready:
            for read in ready:
                seconds, gaps = {}, {}
                for name in read.known:
                    started = time.monotonic()
                    gaps[name] = self._score(read, name)
                    seconds[name] = time.monotonic() - started
                fresh = any(None in known for known in read.known.values())
                self._place.advance(1, resumed=not fresh)
                note = {"seconds": seconds, "gaps": {name: g for name, g in gaps.items() if g.count}}
                yield Done(read.shard, time.monotonic() - read.started, note)

    def _read(self, shard: int) -> _Read:
        """Read a shard's images and decode them if a reward must score any of them."""
        started, names = time.monotonic(), self._work.lacking[shard]
        artifact, path = self._work.images[shard]
        images = ImageShard(self._run.artifact(artifact), path).read(self._work.texts, names)
        known = {name: self._known(name, images) for name in names}
        if any(None in scores for scores in known.values()):
            _ = images.images
        return _Read(shard, started, images, known)

    def _score(self, read: _Read, name: str) -> Gaps:
        """Score a shard by one reward and write the table."""
        scored, files = self._raters[name].score(read.images, read.known[name]), self._files[name]
        table = score_table(read.images.rows, scored)
        keys = table["prompt_id"], table["sample"]
        reject_negative(name, self._comparisons.get(name), score_values(table), *keys)
        artifact, path = files.place(self._run, *self._work.images[read.shard])
        artifact.write_table(path, table)
        return find_gaps(table)

    def _known(self, name: str, images: ImageRows) -> list[Scored | None]:
        kept = kept_scores(images.rows, name)
        if None not in kept:
            return kept
        cached = self._raters[name].cached(images)
        return [first or second for first, second in zip(kept, cached, strict=True)]


def image_shards(artifact: Artifact, folder: str = "") -> list[ImageShard]:
    """The shards of images in a folder of an artifact; `WorkspaceError` when it has none."""
    return [ImageShard(artifact, path) for path in shard_paths(artifact, folder)]


def score_shards(
    executor: Executor,
    shards: Sequence[ImageShard],
    destinations: Sequence[Destination],
    texts: Mapping[str, str],
    engine: EngineSection,
    title: str,
) -> dict[str, float]:
    """Score all shards by the rewards of all destinations, resuming after the shards that have scores.

    `texts` maps prompt ids to prompts; `title` starts the progress lines. Returns the seconds spent on every
    reward, by name; time that rewards share is split evenly.
    """
    passes = _Passes(executor, shards, texts, engine, title)
    started = time.monotonic()
    groups = _groups(destinations, executor.free_memory(engine))
    make_all(partial(passes.run_together, group) for group in groups)
    elapsed = time.monotonic() - started
    own = {d.files.reward.name: passes.seconds.get(d.files.reward.name, 0.0) for d in destinations}
    # Several workers spend more seconds than elapse.
    scale = min(1.0, elapsed / sum(own.values())) if any(own.values()) else 1.0
    shared = (elapsed - scale * sum(own.values())) / len(own)
    return {name: scale * seconds + shared for name, seconds in own.items()}


@dataclass(frozen=True)
class _Passes:
    """Passes over the shards."""

    executor: Executor
    shards: Sequence[ImageShard]
    texts: Mapping[str, str]
    engine: EngineSection
    title: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Time that workers spent on every reward alone, by name."""

    def run_together(self, destinations: Sequence[Destination]) -> None:
        """Make one pass with several rewards, or one with each if they do not fit into memory together."""
        if not self._fits(destinations):
            # By now, nothing holds memory of the failed attempt, not even its exception.
            _free_memory()
            for destination in destinations:
                self.run([destination])

    def _fits(self, destinations: Sequence[Destination]) -> bool:
        """Make a pass with several rewards; False when a device has too little memory for all of them."""
        try:
            self.run(destinations)
        except (RewardMemoryError, ShardsFailed) as error:
            errors = errors_of(error)
            if len(destinations) == 1 or not all(isinstance(e, RewardMemoryError) for e in errors):
                raise
            say(f"{errors[0]}; loading one model at a time instead")
            return False
        return True

    def run(self, destinations: Sequence[Destination]) -> None:
        """Make a pass over the shards and finish the destinations."""
        by_name = {destination.files.reward.name: destination for destination in destinations}
        lacking = {
            number: names
            for number, shard in enumerate(self.shards)
            if (names := [name for name, destination in by_name.items() if not destination.has(shard)])
        }
        work = Scoring(
            title=f"{self.title}: {', '.join(by_name)}",
            access=self.shards[0].artifact.run.access(),
            images=[(shard.artifact.name, shard.path) for shard in self.shards],
            lacking=lacking,
            rewards=[destination.files for destination in destinations],
            texts=self.texts,
            engine=self.engine,
        )

        def on_done(done: Done) -> None:
            for name, seconds in done.note["seconds"].items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            for name, gaps in done.note["gaps"].items():
                by_name[name].add(gaps)

        self.executor.run(work, list(lacking), on_done)
        for shard, names in ((self.shards[number], names) for number, names in lacking.items()):
            for files in (by_name[name].files for name in names):
                artifact, path = files.place(shard.artifact.run, shard.artifact.name, shard.path)
                artifact.wait_until_visible([path])
        for destination in destinations:
            destination.finish()


def _groups(destinations: Sequence[Destination], free: float) -> Iterator[list[Destination]]:
    """Split the destinations, in order, into groups whose weights fit into `free` bytes together.

    The rewards of a group want the same resources.
    """
    group: list[Destination] = []
    used = 0.0
    for destination in destinations:
        reward = destination.files.reward
        size = _weight_bytes(reward)
        together = group and group[0].files.reward.resources == reward.resources
        if group and not (together and used + size <= WEIGHTS_SHARE * free):
            yield group
            group, used = [], 0.0
        group.append(destination)
        used += size
    yield group


def _weight_bytes(reward: RewardSection) -> float:
    """The size of a shipped reward's weights; 0 if the size is unknown or another process loads them."""
    entry = shipped_entry(reward)
    return 0.0 if entry is None else BYTES_PER_MILLION_PARAMETERS * entry.parameters_millions


def _free_memory() -> None:
    gc.collect()
    release_memory()
