"""The disk space that samples take: a forecast, and limits that are checked before any sampling."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from capo.store import WorkspaceError

BYTES_A_PIXEL = {"png": 1.7, "webp": 0.4, "jpeg": 0.5}
"""Rough sizes of natural images, by `generate.image_format`."""

READABLE_BYTES = 2**31 - 1
"""Images a shard must stay below: Arrow cannot read back a struct column that holds as many bytes or more."""

SHARD_BYTES = 3 << 29
"""Images a shard may have by forecast: 1.5 GiB, as the forecast is rough."""


@dataclass(frozen=True)
class DiskSpace:
    """Bytes by kind."""

    images: float
    latents: float = 0
    conditioning: float = 0
    checkpoints: float = 0
    policy: float = 0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def without(self, present: float) -> "DiskSpace":
        """Return what is left to write if files of `present` bytes exist, in the order of the kinds."""
        left = {}
        for kind, amount in asdict(self).items():
            left[kind] = max(amount - present, 0)
            present = max(present - amount, 0)
        return DiskSpace(**left)

    def __str__(self) -> str:
        kinds = asdict(self).items()
        parts = ", ".join(f"{name} {format_bytes(amount)}" for name, amount in kinds if amount)
        return f"about {format_bytes(self.total)} ({parts})" if parts else "nothing"


def image_space(images: int, pixels: int, image_format: str) -> float:
    """Return roughly how many bytes `images` files of `pixels` pixels take."""
    return images * pixels * BYTES_A_PIXEL[image_format]


def check_space(needed: DiskSpace, folder: Path) -> str:
    """Return a line on the space needed and free; raises `WorkspaceError` if half of `needed` is not free."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed.total / 2:
        raise WorkspaceError(
            f"{folder} needs {needed}, but only {format_bytes(free)} are free; free some space, choose "
            "another disk with --run, set generate.image_format to webp or jpeg, keep fewer checkpoints "
            "(train.keep_checkpoints), or use fewer prompts"
        )
    enough = "" if free >= needed.total else "; this may not be enough"
    return f"{needed} to write, {format_bytes(free)} free{enough}"


def check_shard(prompts: int, image_bytes: float) -> None:
    """Raise `ValueError` if a shard of `prompts` prompts would have more than `SHARD_BYTES` of images.

    `image_bytes` is the size of the images of one prompt.
    """
    if prompts * image_bytes <= SHARD_BYTES:
        return
    fitting = int(SHARD_BYTES // image_bytes)
    fix = f"set it to {fitting} or less" if fitting else "set it to 1 and use fewer samples per prompt"
    total = format_bytes(prompts * image_bytes)
    raise ValueError(
        f"generate.shard_prompts: {prompts} prompts have about {total} of images in one file, and 2 GiB "
        f"cannot be read back; {fix}, or set generate.image_format to webp or jpeg"
    )


def format_bytes(amount: float) -> str:
    """Return bytes in decimal units: `2.6 TB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB" if amount < 999.5 else f"{amount:,.0f} TB"
