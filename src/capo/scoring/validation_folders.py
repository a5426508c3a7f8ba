"""Where the artifact `train` has the images of its validations.

validation/step-000100/                images as samples are stored, and in scores/ a table for every reward
validation/step-000100-again-1/        the same step after a roll-back
"""

import re
from collections.abc import Collection

from capo.images.shard_files import shard_path
from capo.store import Artifact

_FOLDER = re.compile(r"validation/step-(\d+)(?:-again-(\d+))?(?=/)")


def validation_folder(step: int, roll_backs: int) -> str:
    """Return the folder of the validation of a step, after as many roll-backs of training."""
    return f"validation/step-{step:06d}" + (f"-again-{roll_backs}" if roll_backs else "")


def validated_folders(train: Artifact, rewards: Collection[str] = ()) -> dict[int, str]:
    """Return the folders of the steps after 0 that have images, and scores by all `rewards`, in order.

    After a roll-back, the last try of a step counts.
    """
    files = set(train.files())
    tries: dict[tuple[int, int], str] = {}
    for path in files:
        if found := _FOLDER.match(path):
            tries[int(found[1]), int(found[2] or 0)] = found[0]
    return {
        step: folder
        for (step, _), folder in sorted(tries.items())
        if step > 0
        and shard_path(folder, 0) in files
        and all(f"{folder}/scores/{reward}.parquet" in files for reward in rewards)
    }
