"""The second stage: N images a prompt from the base model, and what training needs of them.

    samples/shard-00000.parquet                    a row a sample, ordered by prompt, then sample
    samples/shard-00000.conditioning.safetensors   a row a prompt
    samples/unconditional.safetensors              one row

An image has an address (run seed, prompt, sample) that fixes its initial noise, whatever else is
generated beside it.
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from capo import runtime
from capo.diffusion import load_family
from capo.progress import progress
from capo.prompts import Prompt
from capo.recipe import GenerateSection, Recipe
from capo.seeds import initial_noise, stable_seed
from capo.stages.prompts import read_prompts
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
    `keep_latents` keeps the latents too, and the conditioning: all that training reads.
    """
    settings = recipe.generate
    unconditional: dict[str, Tensor] | None = None
    with progress(description, total=len(prompts), unit="prompts") as bar:
        for shard, start in enumerate(range(0, len(prompts), settings.shard_prompts)):
            part = prompts[start : start + settings.shard_prompts]
            relative = shard_path(folder, shard)
            if artefact.has(relative):
                bar.advance(len(part), resumed=True)
                continue
            if unconditional is None:
                unconditional = family.unconditional()
                if keep_latents:
                    artefact.write_tensors(_inside(folder, UNCONDITIONAL), unconditional)
            conditioning = family.encode([p.text for p in part])
            if keep_latents:
                artefact.write_tensors(conditioning_path(folder, shard), conditioning)
            seeds = [stable_seed(seed_key, recipe.seed, p.prompt_id, k) for p in part for k in range(samples)]
            latents, images = _sample(family, conditioning, unconditional, seeds, samples, settings)
            kept = latents if keep_latents else None
            # Last: the table says that the shard is complete.
            artefact.write_table(relative, _table(part, samples, seeds, images, kept))
            bar.advance(len(part))


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


def conditioning_path(folder: str, shard: int) -> str:
    return _inside(folder, f"shard-{shard:05d}.conditioning.safetensors")


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _sample(
    family: "Family",
    conditioning: "dict[str, Tensor]",
    unconditional: "dict[str, Tensor]",
    seeds: list[int],
    samples: int,
    settings: GenerateSection,
) -> "tuple[Tensor, list[Image.Image]]":
    """Latents [rows, C, H, W] on the CPU and images of a shard, in batches across its prompts."""
    import torch

    shape = family.latent_shape(settings)
    latents: list[Tensor] = []
    images: list[Image.Image] = []
    for start in range(0, len(seeds), settings.batch_size):
        rows = range(start, min(start + settings.batch_size, len(seeds)))
        prompts = torch.tensor([row // samples for row in rows])
        noise = torch.stack([initial_noise(seeds[row], shape) for row in rows])
        given = {name: tensor[prompts] for name, tensor in conditioning.items()}
        with runtime.memory_bounded_by("generate.batch_size"):
            batch = family.sample(given, unconditional, noise, settings)
            if not batch.isfinite().all():
                raise ValueError("sampling gave latents that are not finite: model.dtype may be too narrow")
            images += family.decode(batch)
        latents.append(batch.cpu())
    return torch.cat(latents), images


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # three times faster than the default, a little larger
    return buffer.getvalue()


def _table(
    prompts: Sequence[Prompt],
    samples: int,
    seeds: list[int],
    images: list[Image.Image],
    latents: "Tensor | None",
) -> "pa.Table":
    """The rows of a shard, with the image feature that `datasets` and the Hub know."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "prompt_id": pa.array([p.prompt_id for p in prompts for _ in range(samples)], pa.string()),
        "sample": pa.array(list(range(samples)) * len(prompts), pa.int32()),
        "seed": pa.array(seeds, pa.int64()),
        "image": pa.array(
            [{"bytes": _png(image), "path": None} for image in images],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
    }
    features: dict[str, Any] = {
        name: {"dtype": str(columns[name].type), "_type": "Value"} for name in ("prompt_id", "sample", "seed")
    }
    features["image"] = {"_type": "Image"}
    metadata = {}
    if latents is not None:
        elements = latents[0].numel()
        offsets = pa.array(range(0, latents.numel() + 1, elements), pa.int32())
        columns["latent"] = pa.ListArray.from_arrays(offsets, pa.array(latents.flatten().numpy()))
        features["latent"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
        metadata["latent_shape"] = json.dumps(list(latents.shape[1:]))
    metadata["huggingface"] = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata(metadata)
