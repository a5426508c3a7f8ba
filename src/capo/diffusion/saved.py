"""Policies on disk: a folder that diffusers reads, and a `capo.json` that says what it is.

RUN/train/best/     the best policy of a run
ANYWHERE/           the same, copied, or a soup of several
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import diffusion
from capo.recipe import ModelSection

RECORD = "capo.json"

LORA = "pytorch_lora_weights.safetensors"
"""What diffusers writes an adapter into."""


@dataclass(frozen=True)
class SavedPolicy:
    """A policy's folder and its record: `adaptation`, and the `model` and `base` it was tuned from."""

    folder: Path
    record: dict[str, Any]

    @property
    def identity(self) -> str:
        """A digest of the folder's contents, wherever it lies."""
        return diffusion.checkpoint_identity(str(self.folder.resolve()), None)

    def check_base(self, model: ModelSection) -> None:
        """Raise `ValueError` unless `model` is what the policy was tuned from."""
        base = diffusion.checkpoint_identity(model.checkpoint, model.revision)
        if self.record.get("base") != base:
            raise ValueError(
                f"{self.folder} was tuned from another model ({self.record.get('base')}) than "
                f"{model.checkpoint} ({base})"
            )


def is_policy(path: Path) -> bool:
    """Whether `find_policy` finds one there."""
    return any((folder / RECORD).is_file() for folder in _folders(path))


def find_policy(path: str | Path) -> SavedPolicy:
    """The policy in a folder, or the best one of a run directory; raises `ValueError` for neither."""
    for folder in _folders(Path(path)):
        if (folder / RECORD).is_file():
            return SavedPolicy(folder, json.loads((folder / RECORD).read_text(encoding="utf-8")))
    raise ValueError(
        f"{path} is no policy: neither a folder with a {RECORD}, as RUN/train/best is, nor a run directory "
        "whose training is done"
    )


def _folders(path: Path) -> tuple[Path, Path]:
    return path, path / "train" / "best"
