"""Parquet files, of which some columns can be read and verified without the others.

The checksums of its pages cover what a column holds, and the digest of its footer, which is on record, where
every page is and how many rows there are.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from capo.store.tensor_file import HashedFile

if TYPE_CHECKING:
    import pyarrow as pa

_END = 8
"""Bytes after the footer: its length, and the format's mark."""

DICTIONARY_BYTES = 1 << 16
"""A column whose distinct values need more, such as scores or images, is soon written without a dictionary.

The default of 1 MB makes those files larger and takes tens of MB of memory for the pairs of many prompts.
"""


def write_parquet(file: HashedFile, table: "pa.Table") -> None:
    """Write a table with a checksum for every page, and note the digest of its footer in `file`."""
    import pyarrow.parquet as pq

    pq.write_table(
        table,
        file,
        compression="zstd",
        write_page_checksum=True,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    )
    file.flush()
    file.footer = footer_digest(file.path)


def footer_digest(path: Path) -> str:
    """Return the digest of a Parquet file from its footer on; raises `OSError` if it has none."""
    with path.open("rb") as file:
        file.seek(-_END, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-_END - length, os.SEEK_END)
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()


def read_parquet(
    source: "Path | pa.BufferReader", columns: list[str] | None, footer: str | None = None
) -> "pa.Table":
    """Read a table and decode its names and metadata, so that damage shows here and not at a later use.

    Raises `ValueError` if the digest of a file's footer is not `footer`. One thread reads it: a run has
    thousands of tables, and on a busy machine threads wait for each other.
    """
    import pyarrow.parquet as pq

    if footer is not None and isinstance(source, Path) and footer_digest(source) != footer:
        raise ValueError("the digest of its footer is not the recorded one")
    file = pq.ParquetFile(source, page_checksum_verification=True)
    table = file.read(columns=columns, use_threads=False)
    str(table.schema)
    table.validate(full=True)
    if len(table) != file.metadata.num_rows:  # the header of a page has no checksum
        raise ValueError(f"it has {len(table)} rows instead of {file.metadata.num_rows}")
    return table
