"""How much disk samples take: told before they are made, and refused when that cannot be, or not be read."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from capo.store.run_directory import WorkspaceError

BYTES_A_PIXEL = {"png": 1.7, "webp": 0.4, "jpeg": 0.5}
"""Of natural images, by `generate.image_format`; rough, as it depends on what they show."""

READABLE_BYTES = 2**31 - 1
"""Of a shard's images: Arrow does not read back a column inside a struct that has as many or more."""

SHARD_BYTES = 3 << 29
"""Of a shard's images by forecast, at most: 1.5 GiB, as the forecast is rough."""


@dataclass(frozen=True)
class Space:
    """Bytes of samples by kind."""

    images: float
    latents: float = 0
    conditioning: float = 0

    @property
    def total(self) -> float:
        return self.images + self.latents + self.conditioning

    def __str__(self) -> str:
        kinds = {"images": self.images, "latents": self.latents, "conditioning": self.conditioning}
        parts = ", ".join(f"{name} {size(amount)}" for name, amount in kinds.items() if amount)
        return f"about {size(self.total)} ({parts})"


def image_space(images: int, pixels: int, image_format: str) -> float:
    """Bytes that so many images of `pixels` pixels take, roughly."""
    return images * pixels * BYTES_A_PIXEL[image_format]


def check_space(needed: Space, folder: Path) -> str:
    """What there is to say of the free disk; raises `WorkspaceError` when it is not half of `needed`."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed.total / 2:
        raise WorkspaceError(
            f"{folder} needs {needed}, and only {size(free)} are free there: free some space, choose a --run "
            "directory on a larger disk, set generate.image_format to webp or jpeg, or take fewer prompts"
        )
    return f"{needed} to write, {size(free)} free" + ("; it may not be enough" if free < needed.total else "")


def check_shard(prompts: int, image_bytes: float) -> None:
    """Raise `ValueError` when a shard of so many prompts would have more than `SHARD_BYTES` of images.

    `image_bytes` is what the images of one prompt take.
    """
    if prompts * image_bytes <= SHARD_BYTES:
        return
    fitting = int(SHARD_BYTES // image_bytes)
    fix = f"set it to {fitting} or less" if fitting else "set it to 1 and take fewer samples of a prompt"
    raise ValueError(
        f"generate.shard_prompts: {prompts} prompts have about {size(prompts * image_bytes)} of images in "
        f"one file, and 2 GiB cannot be read back; {fix}, or set generate.image_format to webp or jpeg"
    )


def size(amount: float) -> str:
    """Bytes for people, in decimal units: `2.6 TB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB" if amount < 999.5 else f"{amount:,.0f} TB"
