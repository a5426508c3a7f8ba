"""The second stage: N images a prompt from the base model, and what training needs of them.

    samples/shard-00000.parquet                    a row a sample, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        a row a sample
    samples/shard-00000.conditioning.safetensors   a row a prompt
    samples/unconditional.safetensors              one row

An image has an address (run seed, prompt, sample) that fixes its initial noise, whatever else is
generated beside it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from capo import runtime
from capo.diffusion import load_family
from capo.progress import progress, say
from capo.prompts import Prompt
from capo.recipe import GenerateSection, Recipe
from capo.seeds import initial_noise, stable_seed
from capo.stages.batching import in_batches
from capo.stages.finishing import Finisher
from capo.stages.prompts import read_prompts
from capo.stages.shard import Shard, latent_tensors
from capo.stages.space import Space, check_space, image_space
from capo.workspace import Artefact, Run, WorkspaceError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from capo.diffusion.family import Family

UNCONDITIONAL = "unconditional.safetensors"


def generate(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Fill `samples/` for all prompts of the run."""
    prompts = read_prompts(run)
    family = load_family(recipe.model, runtime.device(recipe.engine))
    samples = recipe.generate.samples_per_prompt
    sample_images(
        recipe, family, prompts, artefact=artefact, folder="", samples=samples,
        seed_key="sample", keep_latents=True, description="generate",
    )  # fmt: skip
    artefact.commit(
        {
            "prompts": len(prompts),
            "samples": len(prompts) * samples,
            "truncated_prompts": sum(family.truncates([p.text for p in prompts])),
        }
    )


def sample_images(
    recipe: Recipe,
    family: "Family",
    prompts: Sequence[Prompt],
    *,
    artefact: Artefact,
    folder: str,
    samples: int,
    seed_key: str,
    keep_latents: bool,
    description: str,
) -> None:
    """Write `samples` images of each prompt into shards in `folder`, those that are not there yet.

    The noise of an image is that of `stable_seed(seed_key, recipe.seed, prompt_id, sample)`.
    `keep_latents` keeps the latents too, and the conditioning: all that training reads. Raises
    `WorkspaceError`, before anything is made, when the disk is clearly too small.
    """
    settings = recipe.generate
    size = settings.shard_prompts
    shards = dict(enumerate(prompts[start : start + size] for start in range(0, len(prompts), size)))
    missing = {n: part for n, part in shards.items() if not artefact.has(shard_path(folder, n))}
    count = sum(map(len, missing.values()))
    with progress(description, total=len(prompts), unit="prompts") as bar:
        bar.advance(len(prompts) - count, resumed=True)
        if not missing:
            return
        space = check_space(_forecast(family, count, samples, settings, keep_latents), artefact.folder)
        unconditional = family.unconditional()
        if keep_latents:
            say(f"{description}: {space}")
            artefact.write_tensors(_inside(folder, UNCONDITIONAL), unconditional)

        def write(shard: Shard) -> None:
            if keep_latents:
                tensors = latent_tensors(shard.latents, family.dtype)
                artefact.write_tensors(latents_path(folder, shard.number), tensors)
            # The last of its files: the table says that the shard is complete.
            artefact.write_table(shard_path(folder, shard.number), shard.table())

        with Finisher(family, settings.image_format) as finisher:
            before: Shard | None = None  # sampled, with its last images being finished meanwhile
            for number, part in missing.items():
                conditioning = family.encode([p.text for p in part])
                if keep_latents:
                    artefact.write_tensors(conditioning_path(folder, number), conditioning)
                keys = [(recipe.seed, p.prompt_id, sample) for p in part for sample in range(samples)]
                shard = Shard(number, part, samples, [stable_seed(seed_key, *key) for key in keys])
                given = conditioning, unconditional
                for latents in _sample(family, shard, *given, settings, finisher.sampling):
                    bar.advance(shard.add(latents, finisher.submit(latents)))
                    if before is not None:
                        write(before)
                        before = None
                before = shard
            if before is not None:
                write(before)


def read_samples(
    artefact: Artefact, folder: str = "", columns: list[str] | None = None
) -> Iterator["pa.Table"]:
    """The shards in `folder`, one by one and in order; raises `WorkspaceError` when there is none."""
    shard = 0
    while artefact.has(shard_path(folder, shard)):
        yield artefact.read_table(shard_path(folder, shard), columns)
        shard += 1
    if shard == 0:
        raise WorkspaceError(f"{artefact.folder / folder}: no images; run the stage that makes them")


def shard_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.parquet")


def latents_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.latents.safetensors")


def conditioning_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.conditioning.safetensors")


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _sample(
    family: "Family",
    shard: Shard,
    conditioning: "dict[str, Tensor]",
    unconditional: "dict[str, Tensor]",
    settings: GenerateSection,
    sampling: AbstractContextManager[object],
) -> "Iterator[Tensor]":
    """Latents [B, C, H, W] of the rows of a shard on the CPU, in batches across its prompts."""
    import torch

    shape = family.latent_shape(settings)

    def sample(rows: range) -> "Tensor":
        prompts = torch.tensor([row // shard.samples for row in rows])
        noise = torch.stack([initial_noise(shard.seeds[row], shape) for row in rows])
        given = {name: tensor[prompts] for name, tensor in conditioning.items()}
        with sampling:
            latents = family.sample(given, unconditional, noise, settings).cpu()
        if not latents.isfinite().all():
            raise ValueError("sampling gave latents that are not finite: model.dtype may be too narrow")
        return latents

    return in_batches(len(shard.seeds), family, settings, sample)


def _forecast(
    family: "Family", prompts: int, samples: int, settings: GenerateSection, keep_latents: bool
) -> Space:
    """What `samples` images of so many prompts take on the disk."""
    rows = prompts * samples
    images = image_space(rows, math.prod(family.image_size(settings)), settings.image_format)
    if not keep_latents:
        return Space(images)
    conditioning = family.encode([""])  # of one size, whatever the prompt
    return Space(
        images,
        latents=rows * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=prompts * sum(tensor.nbytes for tensor in conditioning.values()),
    )
