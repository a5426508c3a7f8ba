"""Ids of repositories on the Hugging Face Hub: `owner/name` or `owner/name@revision`."""

import re
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")


def split_revision(location: str) -> tuple[str, str | None]:
    """Split a Hub id into name and revision; an existing path has no revision."""
    if Path(location).exists():
        return location, None
    name, _, revision = location.partition("@")
    return name, revision or None
