"""The file that keeps the measures of one finished run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo.store import WorkspaceError, atomic
from capo.store.manifest import check_seal, sealed


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; raises `WorkspaceError` if the file is damaged or not a record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or "made_from" not in record:
            raise WorkspaceError(f"{path}: not the record of a run; remove it")
        check_seal(record)
    except ValueError as error:
        raise WorkspaceError(f"{path}: damaged ({error}); remove it") from None
    return record


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write a record, unless the file has the same content already."""
    text = json.dumps(sealed(record), allow_nan=False)
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic.write_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
