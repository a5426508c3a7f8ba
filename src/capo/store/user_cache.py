"""The user's cache folder, for data kept across runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$CAPO_CACHE`, or `capo` in the user's cache folder; the folder need not exist yet."""
    if chosen := os.environ.get("CAPO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capo"
