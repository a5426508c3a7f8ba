"""Images of prompts by a model, shard by shard, and what training needs of them.

    samples/shard-00000.parquet                    a row a sample, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        a row a sample
    samples/shard-00000.conditioning.safetensors   a row a prompt
    samples/unconditional.safetensors              one row

An image has an address (run seed, round, prompt, sample) that fixes its initial noise, whatever
else is generated beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capo.engine.progress import progress, say
from capo.engine.seeds import initial_noise, stable_seed
from capo.images.disk_space import DiskSpace, check_shard, check_space, image_space
from capo.images.sample_table import latent_tensors
from capo.images.shard_builder import SampleKey, ShardBuilder
from capo.images.shard_files import UNCONDITIONAL, conditioning_path, latents_path, path_in, shard_path
from capo.prompts import Prompt
from capo.recipe import GenerateSection
from capo.sampling.batching import in_batches
from capo.sampling.image_writer import Finisher
from capo.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from capo.diffusion.family import Family

Waves = Callable[[ShardBuilder], Iterable[list[tuple[int, int]]]]
"""Of a shard, what is made one after the other: places of prompts in it, each with a sample's number."""


@dataclass(frozen=True)
class ImageRequest:
    """Images to make: `samples` of every prompt.

    The initial noise of an image is that of `stable_seed(*seed_key, prompt_id, sample)`.
    """

    prompts: Sequence[Prompt]
    samples: int
    settings: GenerateSection
    seed_key: tuple[str, int]
    """What the images are for, and the seed of the run or round."""
    description: str
    keep_latents: bool = False
    """Keep what training reads too: latents and conditioning."""


def sample_images(
    family: "Family",
    request: ImageRequest,
    artifact: Artifact,
    folder: str = "",
    waves: Waves | None = None,
) -> None:
    """Write the missing shards of the requested images into `folder` of `artifact`.

    With `waves` a prompt may get fewer samples: they say, shard by shard, what to make next, and see each
    wave before the next one is made. Raises, before anything is made, `WorkspaceError` when the disk is
    clearly too small, and `ValueError` when a shard would be too large to be read back.
    """
    settings, prompts = request.settings, request.prompts
    size = settings.shard_prompts
    shards = dict(enumerate(prompts[start : start + size] for start in range(0, len(prompts), size)))
    missing = {n: part for n, part in shards.items() if not artifact.has(shard_path(folder, n))}
    count = sum(map(len, missing.values()))
    with progress(request.description, total=len(prompts), unit="prompts") as bar:
        bar.advance(len(prompts) - count, resumed=True)
        if not missing:
            return
        _check_disk(family, request, missing, artifact)
        unconditional = family.unconditional()
        if request.keep_latents:
            artifact.write_tensors(path_in(folder, UNCONDITIONAL), unconditional)
        with Finisher(family, settings.image_format) as finisher:
            before: ShardBuilder | None = None  # sampled, while its last images are still being encoded
            for number, part in missing.items():
                conditioning = family.encode([p.text for p in part])
                if request.keep_latents:
                    artifact.write_tensors(conditioning_path(folder, number), conditioning)
                shard, whole = ShardBuilder(number, part), 0
                for wave in _all_at_once(shard, request.samples) if waves is None else waves(shard):
                    rows = [
                        SampleKey(p, n, stable_seed(*request.seed_key, part[p].prompt_id, n)) for p, n in wave
                    ]
                    given = conditioning, unconditional
                    for some, latents in _sample(family, rows, *given, settings, finisher.sampling):
                        shard.add(some, latents, finisher.submit(latents))
                        last = sum(row.sample == request.samples - 1 for row in some)
                        bar.advance(last)
                        whole += last
                        if before is not None:
                            _write(before, family, artifact, folder, request.keep_latents)
                            before = None
                bar.advance(len(part) - whole)
                before = shard
            if before is not None:
                _write(before, family, artifact, folder, request.keep_latents)


def _write(
    shard: ShardBuilder, family: "Family", artifact: Artifact, folder: str, keep_latents: bool
) -> None:
    if keep_latents:
        tensors = latent_tensors([shard.all_latents()], family.dtype)
        artifact.write_tensors(latents_path(folder, shard.number), tensors)
    # The last of its files: the table says that the shard is complete.
    artifact.write_table(shard_path(folder, shard.number), shard.table())


def _check_disk(
    family: "Family", request: ImageRequest, missing: Mapping[int, Sequence[Prompt]], artifact: Artifact
) -> None:
    largest = max(map(len, missing.values()))
    check_shard(largest, image_bytes(family, request.samples, request.settings))
    count = sum(map(len, missing.values()))
    space = _forecast(family, count, request.samples, request.settings, request.keep_latents)
    report = check_space(space, artifact.folder)
    if request.keep_latents:
        say(f"{request.description}: {report}")


def _all_at_once(shard: ShardBuilder, samples: int) -> list[list[tuple[int, int]]]:
    return [[(prompt, sample) for prompt in range(len(shard.prompts)) for sample in range(samples)]]


def _sample(
    family: "Family",
    rows: Sequence[SampleKey],
    conditioning: "dict[str, Tensor]",
    unconditional: "dict[str, Tensor]",
    settings: GenerateSection,
    sampling: AbstractContextManager[object],
) -> "Iterator[tuple[Sequence[SampleKey], Tensor]]":
    """Rows of a shard with their latents [B, C, H, W] on the CPU, in batches across its prompts."""
    import torch

    shape = family.latent_shape(settings)

    def sample(batch: range) -> "Tensor":
        prompts = torch.tensor([rows[n].prompt for n in batch])
        noise = torch.stack([initial_noise(rows[n].seed, shape) for n in batch])
        given = {name: tensor[prompts] for name, tensor in conditioning.items()}
        with sampling:
            latents = family.sample(given, unconditional, noise, settings).cpu()
        if not latents.isfinite().all():
            raise ValueError("sampling gave latents that are not finite: model.dtype may be too narrow")
        return latents

    made = 0
    for latents in in_batches(len(rows), family, settings, sample):
        yield rows[made : made + len(latents)], latents
        made += len(latents)


def image_bytes(family: "Family", images: int, settings: GenerateSection) -> float:
    """What so many images take on the disk, roughly."""
    return image_space(images, math.prod(family.image_size(settings)), settings.image_format)


def _forecast(
    family: "Family", prompts: int, samples: int, settings: GenerateSection, keep_latents: bool
) -> DiskSpace:
    """What `samples` images of so many prompts take on the disk."""
    rows = prompts * samples
    images = image_bytes(family, rows, settings)
    if not keep_latents:
        return DiskSpace(images)
    conditioning = family.encode([""])  # of one size, whatever the prompt
    return DiskSpace(
        images,
        latents=rows * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=prompts * sum(tensor.nbytes for tensor in conditioning.values()),
    )
