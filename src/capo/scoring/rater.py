"""A reward as every stage uses it: loaded when a score is missing, and nothing is scored twice.

What earlier runs found of an image and its prompt is looked up first (`capo.rewards.score_cache`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from capo.engine.device import device_name
from capo.recipe import RewardSection
from capo.rewards import Reward, Scored, load_reward, score_images
from capo.rewards.batch_scoring import is_out_of_memory
from capo.rewards.protocol import RewardMemoryError
from capo.rewards.rgb_images import decode_image
from capo.rewards.score_cache import open_cache, score_key

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Shard:
    """A file of samples, read: what all rewards score together."""

    rows: "pa.Table"
    """prompt_id, sample and image"""
    prompts: list[str]
    """One a row."""
    decoded: "list[Image.Image] | None" = None
    """The images, where they are decoded already."""

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
        if self.decoded is not None:
            return self.decoded
        with ThreadPoolExecutor() as pool:
            return list(pool.map(decode_image, self.files))


class Rater:
    """A reward on a device; its model is loaded when the first score is asked of it."""

    def __init__(self, section: RewardSection, device: "torch.device") -> None:
        self._section, self._device = section, device
        self._cache = open_cache(section, device_name(device))
        self._model: Reward | None = None

    def known(self, shard: Shard) -> list[Scored | None]:
        """What earlier runs found of a shard, row by row; None where they found nothing."""
        return self._cache.find(shard.keys) if self._cache else [None] * len(shard.prompts)

    def score(self, shard: Shard, known: Sequence[Scored | None] | None = None) -> list[Scored]:
        """The scores of a shard, row by row; what is `known` (looked up if None) is not made again."""
        known = self.known(shard) if known is None else known
        rows = [row for row, scored in enumerate(known) if scored is None]
        if not rows:
            return [scored for scored in known if scored is not None]
        images, prompts = [shard.images[row] for row in rows], [shard.prompts[row] for row in rows]
        made = score_images(self._loaded(), images, prompts, self._section.batch_size)
        if self._cache:
            self._cache.keep([shard.keys[row] for row in rows], made)
        fresh = dict(zip(rows, made, strict=True))
        return [scored or fresh[row] for row, scored in enumerate(known)]

    def release(self) -> None:
        """Let go of the model."""
        self._model = None

    def _loaded(self) -> Reward:
        if self._model is None:
            try:
                self._model = load_reward(self._section, self._device)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise RewardMemoryError(
                    f"reward {self._section.name!r}: its model does not fit into the device's memory"
                ) from error
        return self._model


def image_files(rows: "pa.Table") -> list[bytes]:
    """The image files of a table of samples."""
    return rows["image"].combine_chunks().field("bytes").to_pylist()
