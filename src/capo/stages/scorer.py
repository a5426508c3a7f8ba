"""One reward on its way through the samples of a run, shard by shard."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from capo import runtime
from capo.progress import say
from capo.recipe import Recipe, RewardSection
from capo.rewards import (
    Reward,
    RewardError,
    Scored,
    build_comparison,
    declared_comparison,
    describe_comparison,
    load_reward,
    refuse_negative,
    score_images,
)
from capo.rewards.cache import open_cache, score_key
from capo.rewards.images import decode_image
from capo.rewards.protocol import MemoryShortError
from capo.rewards.scoring import out_of_memory
from capo.stages.scores import check_missing, finished, image_files, score_table, score_values
from capo.workspace import Artefact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


@dataclass(frozen=True)
class Shard:
    """A file of samples, read: what all rewards score together."""

    name: str
    rows: "pa.Table"
    """prompt_id, sample and image"""
    prompts: list[str]
    """One a row."""

    @cached_property
    def files(self) -> list[bytes]:
        return image_files(self.rows)

    @cached_property
    def keys(self) -> list[bytes]:
        """What the score cache knows each image with its prompt by."""
        return [score_key(*pair) for pair in zip(self.files, self.prompts, strict=True)]

    @cached_property
    def images(self) -> "list[Image.Image]":
        """Decoded once, whoever asks, by as many threads as there are cores."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(decode_image, self.files))


class Scorer:
    """A reward, its artefact, and what it has come to so far.

    Its model is loaded when the first score is asked of it, so never when all are known.
    """

    def __init__(
        self, recipe: Recipe, artefact: Artefact, section: RewardSection, texts: Mapping[str, str], total: int
    ) -> None:
        self.section = section
        self.seconds = 0.0
        """Spent on this reward alone."""
        self._recipe, self._artefact, self._texts, self._total = recipe, artefact, texts, total
        # What calibration would refuse later is refused here, before hours of scoring.
        self._comparison = build_comparison(section) if section.use == "train" else None
        self._cache = open_cache(section, runtime.device_name(recipe.engine))
        self._model: Reward | None = None
        self._values: list[np.ndarray] = []
        self._gappy: list[pa.Table] = []
        self._truncated: set[str] = set()
        self._tells = False

    def finished(self, name: str) -> "pa.Table | None":
        """The scores of a shard that is there without a gap."""
        return finished(self._artefact, name)

    def known(self, shard: Shard) -> list[Scored | None]:
        """What earlier runs found of a shard, row by row."""
        return self._cache.find(shard.keys) if self._cache else [None] * len(shard.prompts)

    def score(self, shard: Shard, known: Sequence[Scored | None]) -> None:
        """Write the scores of a shard, of which `known` ones are not made again."""
        with self._clocked():
            rows = [row for row, scored in enumerate(known) if scored is None]
            made = self._made(shard, rows) if rows else []
            fresh = dict(zip(rows, made, strict=True))
            table = score_table(shard.rows, [each or fresh[row] for row, each in enumerate(known)])
            keys = table["prompt_id"], table["sample"]
            refuse_negative(self.section.name, self._comparison, score_values(table), *keys)
            if self._cache and made:
                self._cache.keep([shard.keys[row] for row in rows], made)
            self._artefact.write_table(shard.name, table)
        self.take(table)

    def take(self, table: "pa.Table") -> None:
        """Count the scores of a shard; raises `RewardError` as soon as too many are missing."""
        self._values.append(score_values(table))
        if "truncated" in table.column_names and table["truncated"].null_count < len(table):
            self._tells = True
            self._truncated.update(table.filter(table["truncated"])["prompt_id"].to_pylist())
        if table["score"].null_count:
            self._gappy.append(table)
            check_missing(self.section.name, self._gappy, self._total, self._recipe.pairs.max_skipped)

    def release(self) -> None:
        """Let go of the model."""
        self._model = None

    def restart(self) -> None:
        """Without its model, from the first shard on; those that are written are only counted again."""
        self._model = None
        self._values, self._gappy, self._truncated = [], [], set()

    def commit(self) -> None:
        """Declare the artefact complete."""
        scores = np.concatenate(self._values)
        present = scores[np.isfinite(scores)]
        if not len(present):
            raise RewardError(f"reward {self.section.name!r} gave no score at all")
        summary = {
            "scored": len(present),
            "missing": len(scores) - len(present),
            "mean": float(present.mean()),
            "std": float(present.std()),
            "comparison": describe_comparison(declared_comparison(self.section)),
        }
        if self._tells:
            summary["truncated_prompts"] = len(self._truncated)
        if self._truncated:
            say(
                f"{self.section.name}: read only the beginning of {len(self._truncated)} of "
                f"{len(self._texts)} prompts, which are longer than it takes"
            )
        self._artefact.commit(summary)

    def _made(self, shard: Shard, rows: Sequence[int]) -> list[Scored]:
        images, prompts = [shard.images[row] for row in rows], [shard.prompts[row] for row in rows]
        return score_images(self._loaded(), images, prompts, self.section.batch_size)

    def _loaded(self) -> Reward:
        if self._model is None:
            try:
                self._model = load_reward(self.section, runtime.device(self._recipe.engine))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                raise MemoryShortError(
                    f"reward {self.section.name!r}: its model does not fit into the device's memory"
                ) from error
        return self._model

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
