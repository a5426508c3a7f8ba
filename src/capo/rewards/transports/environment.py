"""Virtual environments that capo makes for programs, once for each list of requirements."""

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
from capo.store.lock import wait_for_lock
from capo.store.user_cache import cache_folder

WORDS_SHOWN = 2000
"""Characters of pip's last words in an error."""


def environment(requirements: Sequence[str]) -> Path:
    """The folder of an environment with `requirements`, as pip takes them; made when it is not there.

    One process makes it, others wait. It counts only when it is whole: what a crash left is made
    again. Raises `RewardError` with pip's reason when something cannot be installed.
    """
    folder = _place(requirements)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.with_name(f"{folder.name}.lock")):
        if not _finished(folder).is_file():
            _make(folder, requirements)
    return folder


def environment_is_there(requirements: Sequence[str]) -> bool:
    """Whether it need not be made any more."""
    return _finished(_place(requirements)).is_file()


def _place(requirements: Sequence[str]) -> Path:
    python = [platform.python_version(), str(Path(sys.executable).resolve()), platform.machine()]
    key = json.dumps([*requirements, *python])
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return cache_folder() / "environments" / digest


def _finished(folder: Path) -> Path:
    return folder / "requirements.txt"


def _make(folder: Path, requirements: Sequence[str]) -> None:
    say(f"Making an environment with {', '.join(requirements)} in {folder}")
    # In its place from the start: an environment does not work elsewhere than where it was made.
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], requirements)
    # By capo's own pip: an environment with one of its own takes several times as long to make.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    _run([*pip, "install", "--quiet", "--no-compile", "--", *requirements], requirements)
    _finished(folder).write_text("\n".join(requirements) + "\n", encoding="utf-8")


def _run(command: list[str], requirements: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = (done.stdout + done.stderr).strip()[-WORDS_SHOWN:]
        raise RewardError(f"no environment with {', '.join(requirements)} can be made: {words}")
