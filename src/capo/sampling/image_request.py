"""A request for images of prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from capo.prompts import Prompt
from capo.recipe import GenerateSection


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Images to make: `samples` of every prompt.

    The initial noise of an image is that of `stable_seed(*seed_key, prompt_id, sample)`.
    """

    prompts: Sequence[Prompt]
    samples: int
    settings: GenerateSection
    seed_key: tuple[str, int]
    """The purpose of the images, and the seed of the run or round."""
    description: str
    folder: str = ""
    """The folder of the artifact that the shards go to."""
    keep_latents: bool = False
    """True to also write latents and conditioning, which training reads."""

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(math.ceil(len(self.prompts) / self.settings.shard_prompts))

    def shard(self, number: int) -> Sequence[Prompt]:
        """Return the prompts of the shard of this number."""
        size = self.settings.shard_prompts
        return self.prompts[number * size : (number + 1) * size]
