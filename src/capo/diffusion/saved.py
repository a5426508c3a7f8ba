"""Saved policies: folders that diffusers reads, with a `capo.json` that records their origin.

RUN/train/best/     the best policy of a run
ANYWHERE/           a copy of one, or a soup of several
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import diffusion
from capo.recipe import ModelSection
from capo.store import Run
from capo.store.manifest import alike

RECORD = "capo.json"

LORA = "pytorch_lora_weights.safetensors"
"""The file name that diffusers gives an adapter."""

PEFT_CONFIG = "adapter_config.json"
"""A file in every folder that peft itself saves."""
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""What peft puts before the names of the adapted network."""

BEST = "best"
"""The folder of the best policy in the artifact `train`."""


@dataclass(frozen=True)
class SavedPolicy:
    """A policy's folder and its record: `adaptation`, and the `model` and `base` it was tuned from."""

    folder: Path
    record: dict[str, Any]

    @property
    def identity(self) -> str:
        """A digest of the folder's contents, independent of its location."""
        return diffusion.checkpoint_identity(str(self.folder.resolve()), None)

    def check_base(self, model: ModelSection) -> None:
        """Raise `ValueError` unless the policy was tuned from `model`."""
        base = diffusion.model_identity(model)
        if not alike(self.record.get("base"), base):
            raise ValueError(
                f"{self.folder} was tuned from another model ({self.record.get('base')}) than "
                f"{model.checkpoint} ({base})"
            )


def is_policy(path: Path) -> bool:
    """Report whether `path` is a policy folder or a run directory with a policy."""
    return any((folder / RECORD).is_file() for folder in _folders(path))


def find_policy(path: str | Path) -> SavedPolicy:
    """Return the policy in a folder, or the best policy of a run directory.

    A policy inside a run directory is verified against the run's manifest. Raises `ValueError` if there is
    no policy or its record is malformed, and `WorkspaceError` naming a damaged file.
    """
    for folder in _folders(Path(path)):
        if (folder / RECORD).is_file():
            _verify(folder)
            return SavedPolicy(folder, read_record(folder))
    raise ValueError(
        f"{path} is not a policy: it is neither a folder with a {RECORD}, such as RUN/train/best, nor a run "
        "directory whose training is done"
    )


def read_record(folder: Path) -> dict[str, Any]:
    """Return the `capo.json` of a policy folder; raises `ValueError` if it is malformed."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("adaptation") not in ("lora", "full"):
        raise ValueError(f'{path} must be an object whose adaptation is "lora" or "full"')
    return record


def _folders(path: Path) -> tuple[Path, Path]:
    return path, path / "train" / BEST


def _verify(folder: Path) -> None:
    """Compare the files of RUN/train/best with the digests that the run recorded, if it has any."""
    place = folder.resolve()
    if place.parts[-2:] == ("train", BEST):
        Run(place.parent.parent).artifact("train").path(BEST)
