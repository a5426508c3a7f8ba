"""The second stage: N images a prompt from the base model, and what training needs of them.

    samples/shard-00000.parquet                    a row a sample, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        a row a sample
    samples/shard-00000.conditioning.safetensors   a row a prompt
    samples/unconditional.safetensors              one row

An image has an address (run seed, round, prompt, sample) that fixes its initial noise, whatever
else is generated beside it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from capo.diffusion import load_family
from capo.engine import device as runtime
from capo.engine.progress import progress, say
from capo.engine.seeds import initial_noise, stable_seed
from capo.images.disk_space import Space, check_shard, check_space, image_space
from capo.images.shard import Row, Shard, latent_tensors
from capo.prompts import Prompt
from capo.recipe import GenerateSection, Recipe, StartSection
from capo.sampling.batching import in_batches
from capo.sampling.collect_prompts import read_prompts
from capo.sampling.image_writer import Finisher
from capo.sampling.start import find_start
from capo.store.run_directory import Artifact, Run, WorkspaceError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from capo.diffusion.family import Family

UNCONDITIONAL = "unconditional.safetensors"

Waves = Callable[[Shard], Iterable[list[tuple[int, int]]]]
"""Of a shard, what is made one after the other: places of prompts in it, each with a sample's number."""


def generate(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Fill `samples/` for all prompts of the run, in a further round by the policy it starts from."""
    artifact.commit(make_samples(recipe, run, artifact))


def make_samples(
    recipe: Recipe, run: Run, artifact: Artifact, waves: Waves | None = None
) -> dict[str, object]:
    """Fill `samples/` without committing it; returns its summary, as of all samples of every prompt."""
    prompts = read_prompts(run)
    family = load_family(recipe.model, runtime.device(recipe.engine))
    _check_later_shards(recipe, family)
    if recipe.start is not None:
        recipe = _go_on(recipe, recipe.start, family)
    samples = recipe.generate.samples_per_prompt
    sample_images(
        recipe, family, prompts, artifact=artifact, folder="", samples=samples,
        seed_key="sample", keep_latents=True, description="generate", waves=waves,
    )  # fmt: skip
    return {
        "prompts": len(prompts),
        "samples": len(prompts) * samples,
        "truncated_prompts": sum(family.truncates([p.text for p in prompts])),
    }


def _go_on(recipe: Recipe, section: StartSection, family: "Family") -> Recipe:
    """Turn `family` into the policy of the round before; the recipe, with the seed of this round."""
    from capo.diffusion.policy import load_policy

    start = find_start(recipe, section)
    load_policy(family, start.policy.folder)
    return recipe.model_copy(update={"seed": start.seed(recipe.seed)})


def sample_images(
    recipe: Recipe,
    family: "Family",
    prompts: Sequence[Prompt],
    *,
    artifact: Artifact,
    folder: str,
    samples: int,
    seed_key: str,
    keep_latents: bool,
    description: str,
    waves: Waves | None = None,
) -> None:
    """Write `samples` images of each prompt into shards in `folder`, those that are not there yet.

    Or fewer of some prompts, where `waves` says of a shard what to make next; each of them is made
    before the next is asked for.

    The noise of an image is that of `stable_seed(seed_key, recipe.seed, prompt_id, sample)`.
    `keep_latents` keeps the latents too, and the conditioning: all that training reads. Raises, before
    anything is made, `WorkspaceError` when the disk is clearly too small, and `ValueError` when a shard
    would be too large to be read back.
    """
    settings = recipe.generate
    size = settings.shard_prompts
    shards = dict(enumerate(prompts[start : start + size] for start in range(0, len(prompts), size)))
    missing = {n: part for n, part in shards.items() if not artifact.has(shard_path(folder, n))}
    count = sum(map(len, missing.values()))
    with progress(description, total=len(prompts), unit="prompts") as bar:
        bar.advance(len(prompts) - count, resumed=True)
        if not missing:
            return
        check_shard(max(map(len, missing.values())), _image_bytes(family, samples, settings))
        space = check_space(_forecast(family, count, samples, settings, keep_latents), artifact.folder)
        unconditional = family.unconditional()
        if keep_latents:
            say(f"{description}: {space}")
            artifact.write_tensors(_inside(folder, UNCONDITIONAL), unconditional)

        def write(shard: Shard) -> None:
            if keep_latents:
                tensors = latent_tensors([shard.all_latents()], family.dtype)
                artifact.write_tensors(latents_path(folder, shard.number), tensors)
            # The last of its files: the table says that the shard is complete.
            artifact.write_table(shard_path(folder, shard.number), shard.table())

        key = seed_key, recipe.seed
        with Finisher(family, settings.image_format) as finisher:
            before: Shard | None = None  # sampled, with its last images being finished meanwhile
            for number, part in missing.items():
                conditioning = family.encode([p.text for p in part])
                if keep_latents:
                    artifact.write_tensors(conditioning_path(folder, number), conditioning)
                shard, whole = Shard(number, part), 0
                for wave in _all_at_once(shard, samples) if waves is None else waves(shard):
                    rows = [Row(p, n, stable_seed(*key, part[p].prompt_id, n)) for p, n in wave]
                    given = conditioning, unconditional
                    for some, latents in _sample(family, rows, *given, settings, finisher.sampling):
                        shard.add(some, latents, finisher.submit(latents))
                        last = sum(row.sample == samples - 1 for row in some)
                        bar.advance(last)
                        whole += last
                        if before is not None:
                            write(before)
                            before = None
                bar.advance(len(part) - whole)
                before = shard
            if before is not None:
                write(before)


def read_samples(
    artifact: Artifact, folder: str = "", columns: list[str] | None = None
) -> Iterator["pa.Table"]:
    """The shards in `folder`, one by one and in order; raises `WorkspaceError` when there is none."""
    shard = 0
    while artifact.has(shard_path(folder, shard)):
        yield artifact.read_table(shard_path(folder, shard), columns)
        shard += 1
    if shard == 0:
        raise WorkspaceError(f"{artifact.folder / folder}: no images; run the stage that makes them")


def shard_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.parquet")


def latents_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.latents.safetensors")


def conditioning_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.conditioning.safetensors")


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _all_at_once(shard: Shard, samples: int) -> list[list[tuple[int, int]]]:
    return [[(prompt, sample) for prompt in range(len(shard.prompts)) for sample in range(samples)]]


def _sample(
    family: "Family",
    rows: Sequence[Row],
    conditioning: "dict[str, Tensor]",
    unconditional: "dict[str, Tensor]",
    settings: GenerateSection,
    sampling: AbstractContextManager[object],
) -> "Iterator[tuple[Sequence[Row], Tensor]]":
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


def _check_later_shards(recipe: Recipe, family: "Family") -> None:
    """Refuse now what validation and evaluation would: another `shard_prompts` makes the samples again."""
    later = [(recipe.evaluate.prompts, recipe.evaluate.samples_per_prompt)]
    if recipe.train.validation_prompts is not None:
        later.append((recipe.train.validation_prompts, recipe.train.validation_samples))
    most = recipe.generate.shard_prompts
    for section, samples in later:
        check_shard(min(section.count or most, most), _image_bytes(family, samples, recipe.generate))


def _image_bytes(family: "Family", images: int, settings: GenerateSection) -> float:
    """What so many images take on the disk, roughly."""
    return image_space(images, math.prod(family.image_size(settings)), settings.image_format)


def _forecast(
    family: "Family", prompts: int, samples: int, settings: GenerateSection, keep_latents: bool
) -> Space:
    """What `samples` images of so many prompts take on the disk."""
    rows = prompts * samples
    images = _image_bytes(family, rows, settings)
    if not keep_latents:
        return Space(images)
    conditioning = family.encode([""])  # of one size, whatever the prompt
    return Space(
        images,
        latents=rows * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=prompts * sum(tensor.nbytes for tensor in conditioning.values()),
    )
