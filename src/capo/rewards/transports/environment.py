"""Virtual environments for reward programs, one for each list of requirements."""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from capo.engine.progress import say
from capo.rewards.protocol import RewardError
from capo.rewards.transports.process_group import kill_group
from capo.store.lock import wait_for_lock
from capo.store.user_cache import cache_folder

OUTPUT_SHOWN = 2000
"""Characters of pip's last output in an error."""

LONGEST_INSTALLATION = 3600.0
"""Seconds that one step may take; downloads of several gigabytes fit."""


def environment(requirements: Sequence[str]) -> Path:
    """Return the folder of an environment with `requirements`, written as for pip; make it if it is missing.

    One process makes it while others wait; an incomplete environment is made again. Raises `RewardError` with
    pip's output if something cannot be installed, or takes longer than `LONGEST_INSTALLATION`.
    """
    folder = _folder(requirements)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.with_name(f"{folder.name}.lock")):
        if not _marker(folder).is_file():
            _make(folder, requirements)
    return folder


def _folder(requirements: Sequence[str]) -> Path:
    python = [platform.python_version(), str(Path(sys.executable).resolve()), platform.machine()]
    key = json.dumps([*requirements, *python])
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return cache_folder() / "environments" / digest


def _marker(folder: Path) -> Path:
    """Return the file that is written last, when the environment is complete."""
    return folder / "requirements.txt"


def _make(folder: Path, requirements: Sequence[str]) -> None:
    say(f"Installing {', '.join(requirements)} into a new environment, {folder}")
    # In its final place from the start: an environment cannot be moved.
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], requirements)
    # capo's own pip: an environment with its own takes several times as long to make.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    options = ["--quiet", "--no-compile", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "install", *options, "--", *requirements], requirements)
    _marker(folder).write_text("\n".join(requirements) + "\n", encoding="utf-8")


def _run(command: list[str], requirements: Sequence[str]) -> None:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    failure = f"no environment with {', '.join(requirements)} can be made"
    try:
        output, _ = process.communicate(timeout=LONGEST_INSTALLATION)
    except subprocess.TimeoutExpired:
        raise RewardError(
            f"{failure}: pip did not finish in {LONGEST_INSTALLATION:g} s; check the connection to the "
            "package index, then rerun the same command; pip keeps complete downloads"
        ) from None
    finally:
        if process.returncode is None:
            kill_group(process)
            process.communicate()
    if process.returncode:
        raise RewardError(f"{failure}: {output.strip()[-OUTPUT_SHOWN:]}")
