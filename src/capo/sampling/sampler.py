"""Sample images of prompts, shard by shard, and keep what training needs of them.

    samples/shard-00000.parquet                    one row per sample, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        one row per sample
    samples/shard-00000.conditioning.safetensors   one row per prompt
    samples/unconditional.safetensors              one row

The address of an image (run seed, round, prompt, sample) determines its initial noise, regardless of
what else is sampled in the same batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from capo.engine.progress import Bar, progress
from capo.engine.seeds import initial_noise, stable_seed
from capo.images.sample_table import latent_tensors
from capo.images.shard_builder import SampleKey, ShardBuilder
from capo.images.shard_files import UNCONDITIONAL, conditioning_path, latents_path, path_in, shard_path
from capo.prompts import Prompt
from capo.sampling.batching import in_batches
from capo.sampling.disk_forecast import check_disk
from capo.sampling.image_request import ImageRequest
from capo.sampling.image_writer import ImageWriter
from capo.store import Artifact

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from capo.diffusion.family import Family

Waves = Callable[[ShardBuilder], Iterable[list[tuple[int, int]]]]
"""For a shard, what to sample, wave by wave: (position of the prompt in the shard, number of the sample)."""


def sample_images(
    family: "Family",
    request: ImageRequest,
    artifact: Artifact,
    folder: str = "",
    waves: Waves | None = None,
) -> None:
    """Write the missing shards of the requested images into `folder` of `artifact`.

    `waves` may ask for fewer samples of a prompt: it yields what to sample next, shard by shard, after it
    has seen the previous wave. Raises, before sampling, `WorkspaceError` when the disk is clearly too small,
    and `ValueError` when a shard would be too large to be read back.
    """
    missing = {n: part for n, part in request.shards().items() if not artifact.has(shard_path(folder, n))}
    count = sum(map(len, missing.values()))
    with progress(request.description, total=len(request.prompts), unit="prompts") as bar:
        bar.advance(len(request.prompts) - count, resumed=True)
        if not missing:
            return
        largest = max(map(len, missing.values()))
        check_disk(family, request, artifact.folder, prompts=count, largest_shard=largest)
        with ImageWriter(family, request.settings.image_format) as writer:
            files = _ShardFiles(artifact, folder, family.dtype if request.keep_latents else None)
            sampler = _ShardSampler(family, request, writer, files)
            for number, prompts in missing.items():
                shard = ShardBuilder(number, prompts)
                sampler.sample(shard, waves or partial(_one_wave, request.samples), bar)
            files.flush()


class _ShardFiles:
    """Writes the files of a shard while its successor is being sampled, since its images may be late."""

    def __init__(self, artifact: Artifact, folder: str, latents_dtype: "torch.dtype | None") -> None:
        """`latents_dtype` is None if latents and conditioning are not kept."""
        self._artifact, self._folder, self._dtype = artifact, folder, latents_dtype
        self._pending: ShardBuilder | None = None

    def write_unconditional(self, tensors: "dict[str, Tensor]") -> None:
        if self._dtype is not None:
            self._artifact.write_tensors(path_in(self._folder, UNCONDITIONAL), tensors)

    def write_conditioning(self, number: int, tensors: "dict[str, Tensor]") -> None:
        if self._dtype is not None:
            self._artifact.write_tensors(conditioning_path(self._folder, number), tensors)

    def postpone(self, shard: ShardBuilder) -> None:
        """Write a sampled shard at the next `flush`."""
        self._pending = shard

    def flush(self) -> None:
        """Write the postponed shard, if there is one."""
        shard, self._pending = self._pending, None
        if shard is None:
            return
        if self._dtype is not None:
            tensors = latent_tensors([shard.all_latents()], self._dtype)
            self._artifact.write_tensors(latents_path(self._folder, shard.number), tensors)
        # Last of its files, because the table marks the shard as complete.
        self._artifact.write_table(shard_path(self._folder, shard.number), shard.table())


class _ShardSampler:
    """Samples one shard after another."""

    def __init__(
        self, family: "Family", request: ImageRequest, writer: ImageWriter, files: _ShardFiles
    ) -> None:
        self._family, self._request, self._writer, self._files = family, request, writer, files
        self._unconditional = family.unconditional()
        files.write_unconditional(self._unconditional)

    def sample(self, shard: ShardBuilder, waves: Waves, bar: Bar) -> None:
        """Sample a shard and postpone writing it; writes its predecessor after the first batch."""
        conditioning = self._family.encode([prompt.text for prompt in shard.prompts])
        self._files.write_conditioning(shard.number, conditioning)
        complete = 0
        for wave in waves(shard):
            keys = [SampleKey(prompt, n, self._seed(shard.prompts[prompt], n)) for prompt, n in wave]
            for batch, latents in self._batches(keys, conditioning):
                shard.add(batch, latents, self._writer.submit(latents))
                last_samples = sum(key.sample == self._request.samples - 1 for key in batch)
                bar.advance(last_samples)
                complete += last_samples
                self._files.flush()
        bar.advance(len(shard.prompts) - complete)
        self._files.postpone(shard)

    def _seed(self, prompt: Prompt, sample: int) -> int:
        return stable_seed(*self._request.seed_key, prompt.prompt_id, sample)

    def _batches(
        self, keys: Sequence[SampleKey], conditioning: "dict[str, Tensor]"
    ) -> "Iterator[tuple[Sequence[SampleKey], Tensor]]":
        """Samples of a shard with their latents [B, C, H, W] on the CPU, in batches across its prompts."""
        import torch

        settings = self._request.settings
        shape = self._family.latent_shape(settings)

        def sample(batch: range) -> "Tensor":
            prompts = torch.tensor([keys[n].prompt for n in batch])
            noise = torch.stack([initial_noise(keys[n].seed, shape) for n in batch])
            of_batch = {name: tensor[prompts] for name, tensor in conditioning.items()}
            with self._writer.sampling:
                latents = self._family.sample(of_batch, self._unconditional, noise, settings).cpu()
            if not latents.isfinite().all():
                raise ValueError("sampling produced latents that are not finite; set model.dtype to float32")
            return latents

        made = 0
        for latents in in_batches(len(keys), self._family, settings, sample):
            yield keys[made : made + len(latents)], latents
            made += len(latents)


def _one_wave(samples: int, shard: ShardBuilder) -> list[list[tuple[int, int]]]:
    return [[(prompt, sample) for prompt in range(len(shard.prompts)) for sample in range(samples)]]
