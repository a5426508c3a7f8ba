"""A reward that scores images: loaded on first use, after looking up the scores that earlier runs cached."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from capo.engine.device import device_name
from capo.recipe import RewardSection
from capo.rewards import Reward, Scored, load_reward, score_images
from capo.rewards.batch_scoring import is_out_of_memory
from capo.rewards.protocol import RewardMemoryError
from capo.rewards.score_cache import open_cache, score_key
from capo.scoring.decoded_images import DecodedImages

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


@dataclass(frozen=True)
class ImageRows:
    """Images with their prompts, as every reward scores them."""

    rows: "pa.Table"
    """Columns prompt_id, sample, and image."""
    prompts: list[str]
    """The text of every row's prompt."""

    @cached_property
    def files(self) -> list[memoryview]:
        """The image files, still encoded."""
        return image_files(self.rows)

    @cached_property
    def keys(self) -> list[bytes]:
        """The score cache's key of every image with its prompt."""
        return [score_key(*pair) for pair in zip(self.files, self.prompts, strict=True)]

    @cached_property
    def images(self) -> DecodedImages:
        """The images, decoded once for all rewards unless they would take too much memory."""
        return DecodedImages(self.files)


class Rater:
    """One reward on one device. Its model is loaded when the first score must be computed."""

    def __init__(self, section: RewardSection, device: "torch.device") -> None:
        self.section = section
        self._device = device
        self._cache = open_cache(section, device_name(device))
        self._model: Reward | None = None

    def cached(self, images: ImageRows) -> list[Scored | None]:
        """The scores that earlier runs computed, row by row; None where the cache has none."""
        return self._cache.find(images.keys) if self._cache else [None] * len(images.prompts)

    def score(self, images: ImageRows, known: Sequence[Scored | None]) -> list[Scored]:
        """Score every row, reusing the `known` scores."""
        missing = [row for row, scored in enumerate(known) if scored is None]
        if not missing:
            return [scored for scored in known if scored is not None]
        pictures, prompts = images.images.chosen(missing), [images.prompts[row] for row in missing]
        computed = score_images(self._loaded(), pictures, prompts, self.section.batch_size)
        if self._cache:
            self._cache.keep([images.keys[row] for row in missing], computed)
        by_row = dict(zip(missing, computed, strict=True))
        return [scored or by_row[row] for row, scored in enumerate(known)]

    def _loaded(self) -> Reward:
        if self._model is None:
            try:
                self._model = load_reward(self.section, self._device)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise RewardMemoryError(
                    f"reward {self.section.name!r}: its model does not fit into the device's memory"
                ) from error
        return self._model


def image_files(rows: "pa.Table") -> list[memoryview]:
    """The encoded image files of a table of samples, which are not copied."""
    column = rows["image"].combine_chunks().field("bytes")
    return [memoryview(value.as_buffer() or b"") for value in column]
