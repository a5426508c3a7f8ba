"""`capo shapes build`: build the embedded checkpoints from scratch.

The parts, in the order in which they depend on each other, are `vae`, the base models `base` and `flow`,
and the rewards `preference`, `vqa-1` (which starts from the vision tower of `preference`), `vqa` (which
continues `vqa-1`), `aesthetic` and `heldout`. Both question-answering rewards read images of `base`. An
interrupted part resumes. Every part is saved as float16 safetensors in the layout of the real model that it
represents.
"""

import json
import shutil
import time
from pathlib import Path

from capo.shapes.build.part import BuildPart

PARTS = ("vae", "base", "flow", "preference", "vqa-1", "vqa", "aesthetic", "heldout")


def build(directory: Path, device: str = "cpu", parts: tuple[str, ...] = PARTS, scale: float = 1.0) -> None:
    """Build `parts` into `directory`, which must contain the parts that they depend on or be built with them.

    `scale` multiplies data and steps (1 builds the shipped checkpoints). State in progress is kept under
    `directory/.work` until a part is done. Raises `ValueError` for an unknown part.
    """
    import torch

    from capo.pretrained.model_loading import quiet

    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"unknown parts: {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    torch.set_float32_matmul_precision("high")  # TF32 if the device has it, else float32
    with quiet():
        from capo.shapes.build.save import BUILDERS

        for name in (name for name in PARTS if name in parts):
            started = time.monotonic()
            work = directory / ".work" / name
            BUILDERS[name](directory, BuildPart(name, work, device, scale))
            shutil.rmtree(work, ignore_errors=True)
            _record(directory, name, device, scale, time.monotonic() - started)


def _record(directory: Path, part: str, device: str, scale: float, seconds: float) -> None:
    """Write to `directory/origin.json` how the weights of a part were made."""
    import platform
    import subprocess

    import torch

    path = directory / "origin.json"
    origin = json.loads(path.read_text()) if path.exists() else {}
    source = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    origin[part] = {
        "command": f"capo shapes build --to DIR --parts {part} --device {device.partition(':')[0]}",
        "scale": scale,
        "commit": source.stdout.strip() if source.returncode == 0 else None,
        "device": where,
        "torch": torch.__version__,
        "seconds": round(seconds),
    }
    path.write_text(json.dumps(origin, indent=2, sort_keys=True) + "\n")
