"""The prompts, pairs, times and noise of a step, as a pure function of (seed, step).

No order and no random state has to be saved: training that is resumed, split into other micro-batches,
or run on other hardware sees the same data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from capo.diffusion.process import Process
from capo.engine.seeds import initial_noise, sample_seed, stable_seed
from capo.method.selection import draw_pair
from capo.pairing.training_pairs import PromptPairs
from capo.recipe import TrainSection
from capo.training.sample_files import Samples


@dataclass(frozen=True)
class Batch:
    """B pairs of a step; chosen and rejected share the prompt and the time."""

    prompt_ids: list[str]
    chosen: Tensor
    """Latents float32 [B, C, H, W]."""
    rejected: Tensor
    noise_chosen: Tensor
    noise_rejected: Tensor
    t: Tensor
    """Times [B]."""
    delta_reward: Tensor
    """ΔR float32 [B], in [-1, 1]."""
    conditioning: dict[str, Tensor]
    """Tensors [B, ...]."""

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield the same pairs in batches of at most `size`."""
        for start in range(0, len(self.prompt_ids), size):
            part = slice(start, start + size)
            values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "conditioning"}
            conditioning = {name: tensor[part] for name, tensor in self.conditioning.items()}
            yield Batch(**{n: v[part] for n, v in values.items()}, conditioning=conditioning)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory, from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {n: change(v) for n, v in values.items() if isinstance(v, Tensor)}
        conditioning = {name: change(tensor) for name, tensor in self.conditioning.items()}
        return Batch(self.prompt_ids, **changed, conditioning=conditioning)


@dataclass(frozen=True)
class Draw:
    """The pair at one position of a batch."""

    prompt_id: str
    chosen: int
    rejected: int
    delta_reward: float


class Batches:
    """The batches of a training run, by step; steps count from 1."""

    def __init__(
        self,
        prompts: Sequence[PromptPairs],
        samples: Samples,
        process: Process,
        section: TrainSection,
        seed: int,
        share: slice = slice(None),
    ) -> None:
        """Make only the pairs of `share` in every batch; other processes make the rest.

        Raises `ValueError` for time settings that do not fit the model's process.
        """
        self._prompts = prompts
        self._samples = samples
        process.draw_times(1, torch.Generator(), section)  # raises now, not at the first step
        self._process = process
        self._section = section
        self._size = section.global_batch_size
        self._seed = seed
        self._share = share
        self._order: tuple[int, list[int]] = (-1, [])

    def draw(self, step: int) -> list[Draw]:
        """Return the pairs of a step: prompts in the order of their epoch, with one pair per prompt."""
        draws = []
        for place in range((step - 1) * self._size, step * self._size):
            epoch, position = divmod(place, len(self._prompts))
            prompt = self._prompts[self._permutation(epoch)[position]]
            generator = _generator("pair", self._seed, epoch, prompt.prompt_id)
            chosen, rejected = draw_pair(prompt.allowed, generator)
            delta_reward = prompt.delta_reward(chosen, rejected)
            draws.append(Draw(prompt.prompt_id, chosen, rejected, delta_reward))
        return draws

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, or this process's share of it, on the CPU."""
        draws = self.draw(step)[self._share]
        chosen = torch.stack([self._samples.latent(d.prompt_id, d.chosen) for d in draws])
        rejected = torch.stack([self._samples.latent(d.prompt_id, d.rejected) for d in draws])
        times, noise = [], []
        for position, draw in zip(range(self._size)[self._share], draws, strict=True):
            generator = _generator("step", self._seed, step, position)
            times.append(self._process.draw_times(1, generator, self._section))
            noise.append(self._noise(draw, chosen.shape[1:], generator))
        conditioning = [self._samples.conditioning(d.prompt_id) for d in draws]
        return Batch(
            prompt_ids=[d.prompt_id for d in draws],
            chosen=chosen,
            rejected=rejected,
            noise_chosen=torch.stack([for_chosen for for_chosen, _ in noise]),
            noise_rejected=torch.stack([for_rejected for _, for_rejected in noise]),
            t=torch.cat(times),
            delta_reward=torch.tensor([d.delta_reward for d in draws], dtype=torch.float32),
            conditioning={name: torch.stack([c[name] for c in conditioning]) for name in conditioning[0]},
        )

    def _noise(self, draw: Draw, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return noise for chosen and rejected: independent, shared, or the noise they were sampled from."""
        if self._section.noise == "prior":
            chosen, rejected = (
                initial_noise(sample_seed(self._seed, draw.prompt_id, sample), shape)
                for sample in (draw.chosen, draw.rejected)
            )
            return chosen, rejected
        fresh = torch.randn(tuple(shape), generator=generator)
        if self._section.noise == "shared":
            return fresh, fresh
        return fresh, torch.randn(tuple(shape), generator=generator)

    def _permutation(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            generator = _generator("epoch", self._seed, epoch)
            self._order = epoch, torch.randperm(len(self._prompts), generator=generator).tolist()
        return self._order[1]


def _generator(*key: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed("train", *key))
