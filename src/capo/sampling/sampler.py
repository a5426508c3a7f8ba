"""Sample images of prompts, shard by shard, and keep what training needs of them.

    samples/shard-00000.parquet                    one row per sample, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        one row per sample
    samples/shard-00000.conditioning.safetensors   one row per prompt
    samples/unconditional.safetensors              one row

The address of an image (run seed, round, prompt, sample) determines its initial noise, regardless of
what else is sampled in the same batch.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from capo.engine.local_executor import LocalExecutor
from capo.engine.memory import release_memory
from capo.engine.seeds import initial_noise, stable_seed
from capo.engine.shard_work import Advance, Done, Executor, Workplace
from capo.images.sample_table import latent_tensors
from capo.images.shard_builder import SampleKey, ShardBuilder
from capo.images.shard_files import UNCONDITIONAL, conditioning_path, latents_path, path_in, shard_path
from capo.prompts import Prompt
from capo.sampling.batching import batch_size, in_batches
from capo.sampling.disk_forecast import check_disk
from capo.sampling.former_images import FORMER, FormerImages, Reused
from capo.sampling.image_request import ImageRequest
from capo.sampling.image_writer import ImageWriter
from capo.store import Artifact
from capo.store.run_directory import RunAccess

if TYPE_CHECKING:
    from torch import Tensor

    from capo.diffusion.family import Family

Waves = Callable[[ShardBuilder], Iterable[list[tuple[int, int]]]]
"""For a shard, what to sample, wave by wave: (position of the prompt in the shard, number of the sample)."""


@dataclass(frozen=True)
class Sampling:
    """The work of sampling the requested images into an artifact, all with one model and equal settings."""

    title: str
    access: RunAccess
    artifact: str
    requests: Sequence[ImageRequest]
    load: "Callable[[Workplace], Family]"
    """Loads the model in the worker's process. Picklable, unless the executor is local."""
    make_waves: Callable[[Workplace], Waves] | None = None
    """Makes the function that decides in the worker's process how many samples a prompt gets: it yields what
    to sample next, shard by shard, after it has seen the previous wave. None for all samples at once."""

    unit = "prompts"
    resources: ClassVar[Mapping[str, float]] = {}

    @cached_property
    def shards(self) -> "list[_Shard]":
        """The shards of all requests; the work numbers them from 0."""
        return [_Shard(request, number) for request in self.requests for number in request.shards]

    @property
    def total(self) -> int:
        """The number of prompts."""
        return sum(len(request.prompts) for request in self.requests)

    def size(self, shard: int) -> int:
        """Return the number of prompts in a shard."""
        return len(self.shards[shard].prompts)

    def missing(self, artifact: Artifact) -> list[int]:
        """Return the shards that `artifact` lacks."""
        return [number for number, shard in enumerate(self.shards) if not artifact.has(shard.path)]

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[ShardSampler]":
        """Load the model. Raises `WorkspaceError` or `ValueError` if the images cannot be stored."""
        artifact = self.access.open(place.writer).artifact(self.artifact)
        family = self.load(place)
        self._check_disk(family, artifact)
        waves = None if self.make_waves is None else self.make_waves(place)
        yield ShardSampler(family, self, artifact, waves, place.advance)
        del family, waves
        gc.collect()  # what follows may need the device's memory
        release_memory()

    def _check_disk(self, family: "Family", artifact: Artifact) -> None:
        missing = [self.shards[number] for number in self.missing(artifact)]
        for request in self.requests:
            sizes = [len(shard.prompts) for shard in missing if shard.request is request]
            if sizes:
                check_disk(family, request, artifact.folder, prompts=sum(sizes), largest_shard=max(sizes))


@dataclass(frozen=True)
class _Shard:
    """A shard of a request."""

    request: ImageRequest
    number: int

    @property
    def prompts(self) -> Sequence[Prompt]:
        return self.request.shard(self.number)

    @property
    def path(self) -> str:
        """The table, which marks the shard as complete."""
        return shard_path(self.request.folder, self.number)


def run_sampling(
    executor: Executor, work: Sampling, artifact: Artifact, held: "Family | None" = None
) -> None:
    """Make the shards of `work` that `artifact` lacks; `held` is a model that this process holds."""
    executor.run(work, work.missing(artifact), held=held)
    artifact.wait_until_visible(shard.path for shard in work.shards)


def sample_images(
    family: "Family",
    request: ImageRequest,
    artifact: Artifact,
    folder: str = "",
    waves: Waves | None = None,
) -> None:
    """Write the missing shards of the requested images in this process, with a model that is loaded."""
    make_waves = None if waves is None else lambda place: waves
    requests = [replace(request, folder=folder)]
    work = Sampling(
        request.description, artifact.run.access(), artifact.name, requests, lambda place: family, make_waves
    )
    run_sampling(LocalExecutor(), work, artifact)


class ShardSampler:
    """Samples one shard after another, with a model in this process."""

    def __init__(
        self, family: "Family", work: Sampling, artifact: Artifact, waves: Waves | None, advance: Advance
    ) -> None:
        self._family, self._shards, self._artifact = family, work.shards, artifact
        self._settings = work.requests[0].settings
        self._waves, self._advance = waves, advance
        self._former = {
            request.folder: FormerImages(artifact, request, family)
            for request in work.requests
            if waves is None and artifact.has(FORMER)
        }
        self._unconditional = family.unconditional()
        for request in work.requests:
            if request.keep_latents:
                artifact.write_tensors(path_in(request.folder, UNCONDITIONAL), self._unconditional)

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Sample shards.

        The files of a shard are written while the next one is sampled, because decoding lags behind.
        """
        pending: deque[tuple[int, ShardBuilder, float]] = deque()

        def written() -> Iterator[Done]:
            while pending:
                place, shard, started = pending.popleft()
                self._write(place, shard)
                yield Done(place, time.monotonic() - started)

        with ImageWriter(self._family, self._settings.image_format) as writer:
            for place in shards:
                started = time.monotonic()
                shard = ShardBuilder(self._shards[place].number, self._shards[place].prompts)
                for _ in self._sample(place, shard, writer):
                    yield from written()
                yield from written()
                pending.append((place, shard, started))
            yield from written()

    def _sample(self, place: int, shard: ShardBuilder, writer: ImageWriter) -> Iterator[None]:
        """Sample a shard, and pause after every batch."""
        request = self._shards[place].request
        conditioning = self._family.encode([prompt.text for prompt in shard.prompts])
        if request.keep_latents:
            path = conditioning_path(request.folder, shard.number)
            self._artifact.write_tensors(path, conditioning)
        complete = 0
        for wave in self._waves(shard) if self._waves else _one_wave(request.samples, shard):
            seeds = [stable_seed(*request.seed_key, shard.prompts[p].prompt_id, n) for p, n in wave]
            keys = [SampleKey(p, n, seed) for (p, n), seed in zip(wave, seeds, strict=True)]
            batches = _Batches(self._shards[place].request, shard, keys, conditioning)
            for batch, latents, files in self._batches(batches, writer):
                shard.add(batch, latents, writer.submit(latents) if files is None else _finished(files))
                last_samples = sum(key.sample == request.samples - 1 for key in batch)
                self._advance(last_samples)
                complete += last_samples
                yield
        self._advance(len(shard.prompts) - complete)

    def _write(self, place: int, shard: ShardBuilder) -> None:
        request = self._shards[place].request
        if request.keep_latents:
            tensors = latent_tensors([shard.all_latents()], self._family.dtype)
            self._artifact.write_tensors(latents_path(request.folder, shard.number), tensors)
        # Last of its files, because the table marks the shard as complete.
        self._artifact.write_table(self._shards[place].path, shard.table())

    def _batches(
        self, wanted: "_Batches", writer: ImageWriter
    ) -> "Iterator[tuple[Sequence[SampleKey], Tensor, list[bytes] | None]]":
        """Samples of a shard with their latents [B, C, H, W] on the CPU, in batches across its prompts.

        Batches that were made before come with their image files, and with latents if these are stored.
        """
        import torch

        settings, keys = self._settings, wanted.keys
        shape = self._family.latent_shape(settings)
        files: dict[int, list[bytes]] = {}

        def sample(batch: range) -> "Tensor":
            if (reused := self._reused(wanted, batch)) is not None:
                files[batch.start] = reused.files
                return torch.empty(len(batch), 0) if reused.latents is None else reused.latents
            prompts = torch.tensor([keys[n].prompt for n in batch])
            noise = torch.stack([initial_noise(keys[n].seed, shape) for n in batch])
            of_batch = {name: tensor[prompts] for name, tensor in wanted.conditioning.items()}
            with writer.sampling:
                latents = self._family.sample(of_batch, self._unconditional, noise, settings).cpu()
            if not latents.isfinite().all():
                raise ValueError("sampling produced latents that are not finite; set model.dtype to float32")
            return latents

        made = 0
        for latents in in_batches(len(keys), self._family, settings, sample):
            yield keys[made : made + len(latents)], latents, files.get(made)
            made += len(latents)

    def _reused(self, wanted: "_Batches", batch: range) -> "Reused | None":
        former = self._former.get(wanted.request.folder)
        if former is None:
            return None
        keys = [wanted.keys[n] for n in batch]
        addresses = [(wanted.shard.prompts[key.prompt].prompt_id, key.sample, key.seed) for key in keys]
        rows = [{name: t[key.prompt] for name, t in wanted.conditioning.items()} for key in keys]
        return former.find(addresses, batch_size(self._family, self._settings), rows)


@dataclass(frozen=True)
class _Batches:
    """Images of a shard to make in batches."""

    request: ImageRequest
    shard: ShardBuilder
    keys: Sequence[SampleKey]
    conditioning: "dict[str, Tensor]"
    """Of every prompt of the shard."""


def _finished(files: list[bytes]) -> "Future[list[bytes]]":
    future: Future[list[bytes]] = Future()
    future.set_result(files)
    return future


def _one_wave(samples: int, shard: ShardBuilder) -> list[list[tuple[int, int]]]:
    return [[(prompt, sample) for prompt in range(len(shard.prompts)) for sample in range(samples)]]
