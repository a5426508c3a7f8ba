"""A request for images of prompts."""

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
    keep_latents: bool = False
    """True to also write latents and conditioning, which training reads."""

    def shards(self) -> dict[int, Sequence[Prompt]]:
        """The prompts of every shard, by its number."""
        size = self.settings.shard_prompts
        starts = range(0, len(self.prompts), size)
        return dict(enumerate(self.prompts[start : start + size] for start in starts))
