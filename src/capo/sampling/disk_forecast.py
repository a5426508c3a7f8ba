"""The disk space that sampled images will take, checked before sampling."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from capo.engine.progress import say
from capo.images.disk_space import DiskSpace, check_shard, check_space, image_space
from capo.recipe import GenerateSection
from capo.sampling.image_request import ImageRequest

if TYPE_CHECKING:
    from capo.diffusion.family import Family


def check_disk(
    family: "Family", request: ImageRequest, folder: Path, *, prompts: int, largest_shard: int
) -> None:
    """Compare the space needed by the images of `prompts` prompts with the free space at `folder`.

    Reports both if latents are kept, as for samples. Raises `WorkspaceError` when the disk is clearly too
    small, and `ValueError` when the largest shard, in prompts, could not be read back from one file.
    """
    check_shard(largest_shard, image_bytes(family, request.samples, request.settings))
    report = check_space(_forecast(family, request, prompts), folder)
    if request.keep_latents:
        say(f"{request.description}: {report}")


def image_bytes(family: "Family", images: int, settings: GenerateSection) -> float:
    """The approximate size of `images` images on disk."""
    return image_space(images, math.prod(family.image_size(settings)), settings.image_format)


def _forecast(family: "Family", request: ImageRequest, prompts: int) -> DiskSpace:
    settings, rows = request.settings, prompts * request.samples
    images = image_bytes(family, rows, settings)
    if not request.keep_latents:
        return DiskSpace(images)
    conditioning = family.encode([""])  # its size does not depend on the prompt
    return DiskSpace(
        images,
        latents=rows * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=prompts * sum(tensor.nbytes for tensor in conditioning.values()),
    )
