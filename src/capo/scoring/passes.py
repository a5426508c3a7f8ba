"""All samples of a run scored by several rewards.

The shards of samples are passed through once, each image decoded for all rewards together, while
the next shard is read in the background. Where not all models fit into the device's memory side by
side, there is a pass for each set that does.
"""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from capo.engine.memory import free_memory, release_memory
from capo.engine.prefetch import prefetched
from capo.engine.progress import progress, say
from capo.images.sample_table import kept_columns
from capo.prompts.table import read_prompts
from capo.recipe import Recipe, RewardSection
from capo.rewards import SHIPPED, Scored
from capo.rewards.protocol import RewardMemoryError
from capo.scoring.rater import Shard
from capo.scoring.scorer import Scorer
from capo.store import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa

WEIGHTS_SHARE = 0.5
"""Of the memory that is free, for models side by side; the rest is for what they compute."""

BYTES_A_MILLION = 4e6
"""Of parameters, in float32."""


def score_samples(recipe: Recipe, run: Run, work: Sequence[tuple[Artifact, RewardSection]]) -> list[float]:
    """Fill and commit the score artifacts of some rewards; returns the seconds each took.

    A shard with missing scores is scored again when the stage starts again. Raises `RewardError` as soon as
    a reward has no score for more than `pairs.max_skipped` of all samples.
    """
    started = time.monotonic()
    samples = run.artifact("samples")
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(run)}
    total = samples.summary["samples"]
    scorers = [Scorer(recipe, artifact, reward, texts, total) for artifact, reward in work]
    for together in _side_by_side(recipe, scorers):
        if not _passed(samples, texts, together):
            # Only here is the device memory of the failed attempt held by nothing, its error included.
            for scorer in together:
                scorer.restart()
            _free_memory()
            for scorer in together:
                _pass(samples, texts, [scorer])
    shared = (time.monotonic() - started - sum(scorer.seconds for scorer in scorers)) / len(scorers)
    return [scorer.seconds + shared for scorer in scorers]


def _side_by_side(recipe: Recipe, scorers: Sequence[Scorer]) -> Iterator[list[Scorer]]:
    """The rewards in their order, as many together as their weights leave memory for; one at least."""
    room = WEIGHTS_SHARE * free_memory(recipe.engine)
    together: list[Scorer] = []
    taken = 0.0
    for scorer in scorers:
        size = _weights(scorer.section)
        if together and taken + size > room:
            yield together
            together, taken = [], 0.0
        together.append(scorer)
        taken += size
    yield together


def _weights(reward: RewardSection) -> float:
    """Bytes of a shipped reward's weights; 0 for what is of unknown size, or runs in another process."""
    source = reward.source or reward.name
    if reward.command or reward.url or source not in SHIPPED:
        return 0.0
    return BYTES_A_MILLION * SHIPPED[source].parameters


def _passed(samples: Artifact, texts: Mapping[str, str], scorers: Sequence[Scorer]) -> bool:
    """Score by several rewards together; whether the device had memory enough."""
    try:
        _pass(samples, texts, scorers)
    except RewardMemoryError as error:
        if len(scorers) == 1:
            raise
        say(f"{error}; going on with one model after another")
        return False
    return True


def _pass(samples: Artifact, texts: Mapping[str, str], scorers: Sequence[Scorer]) -> None:
    """Score what is not scored yet, and commit the artifacts."""
    names = [name for name in samples.files() if name.endswith(".parquet")]
    total = samples.summary["samples"]
    with ExitStack() as stack:
        bars = [stack.enter_context(progress(f"score {s.section.name}", total, "images")) for s in scorers]
        prepare = partial(_prepare, samples, texts, scorers)
        for name, shard, found in stack.enter_context(prefetched(prepare, names, ahead=1)):
            for scorer, bar, each in zip(scorers, bars, found, strict=True):
                if isinstance(each, list):
                    assert shard is not None
                    scorer.score(name, shard, each)
                else:
                    scorer.take(each)
                bar.advance(len(each), resumed=not isinstance(each, list) or None not in each)
    for scorer in scorers:
        scorer.commit()
        scorer.release()
    _free_memory()


def _free_memory() -> None:
    gc.collect()
    release_memory()


def _prepare(
    samples: Artifact, texts: Mapping[str, str], scorers: Sequence[Scorer], name: str
) -> "tuple[str, Shard | None, list[pa.Table | list[Scored | None]]]":
    """A shard, its name first; for each reward its scores, or row by row what earlier runs knew."""
    there = [scorer.finished(name) for scorer in scorers]
    if all(table is not None for table in there):
        return name, None, list(there)
    kept = kept_columns(scorer.section.name for scorer in scorers)
    rows = samples.read_table(name, columns=["prompt_id", "sample", "image", *kept])
    shard = Shard(rows, [texts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()])
    found = [s.known(shard) if table is None else table for s, table in zip(scorers, there, strict=True)]
    if any(isinstance(each, list) and None in each for each in found):
        _ = shard.images  # decoded here, while the shard before is scored
    return name, shard, found
