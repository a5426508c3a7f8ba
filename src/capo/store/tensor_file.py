"""Safetensors files that are hashed while they are written, and read one row at a time.

The metadata of a file have a digest of every row of every tensor, and the header, which holds the metadata,
has a digest on record. So a reader verifies one row without reading the others.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.store.manifest import Description

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 24
"""Bytes that are hashed and written at a time."""

ROW_DIGEST = 8
"""Bytes of the digest of a row."""

ROWS = "rows/"
"""The metadata `rows/NAME` are the digests of all rows of the tensor NAME, as one hexadecimal text."""

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The names of torch's types by those of safetensors."""


class HashedFile(io.BufferedWriter):
    """A file to write; `description` is what `describe` returns, without reading the file again."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.path = path
        self._hash = hashlib.blake2b(digest_size=16)
        self._bytes = 0
        self._header: str | None = None
        self.footer: str | None = None
        """The digest of the footer of a table."""

    def write(self, data: Any) -> int:
        """Write and hash bytes, or another buffer."""
        self._hash.update(data)
        written = super().write(data)
        self._bytes += written
        return written

    def end_header(self) -> None:
        """Mark what is written so far as the header, which gets a digest of its own."""
        self._header = self._hash.hexdigest()

    @property
    def description(self) -> Description:
        """The length and the digest of what is written so far, and those of its header and footer, if any."""
        parts = {"header": self._header, "footer": self.footer}
        whole: Description = {"bytes": self._bytes, "blake2b": self._hash.hexdigest()}
        return whole | {name: digest for name, digest in parts.items() if digest is not None}


def write_tensors(
    file: HashedFile, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any device; equal tensors and metadata make equal bytes.

    Tensors need not fit into main memory together.
    """
    # The largest items first, so that every tensor is aligned to its items.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _type_name(tensors[name]), "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.end_header()
    for name in names:
        data = _buffer(tensors[name])
        for start in range(0, len(data), CHUNK):
            file.write(data[start : start + CHUNK])


def row_digests(tensors: "Mapping[str, Tensor]") -> dict[str, str]:
    """Return the metadata with the digest of every row, for tensors that have at least one dimension."""
    return {
        ROWS + name: "".join(map(_row_digest, _rows(tensor)))
        for name, tensor in tensors.items()
        if tensor.ndim
    }


def read_row(path: Path, row: int, header_digest: str) -> "dict[str, Tensor]":
    """Read one row of every tensor; raises `ValueError` if header or row do not have their digests.

    Raises `IndexError` for a row that a tensor does not have.
    """
    import torch

    with path.open("rb", buffering=0) as file:
        prefix = file.read(8)
        text = file.read(min(int.from_bytes(prefix, "little"), path.stat().st_size))
        if hashlib.blake2b(prefix + text, digest_size=16).hexdigest() != header_digest:
            raise ValueError("the digest of its header is not the recorded one")
        header = json.loads(text)
        digests = header.pop("__metadata__")
        tensors = {}
        for name, described in header.items():
            rows, *shape = described["shape"]
            if not 0 <= row < rows:
                raise IndexError(f"{path} has {rows} rows of {name}, not a row {row}")
            start, end = described["data_offsets"]
            size = (end - start) // rows
            file.seek(8 + len(text) + start + row * size)
            data = bytearray(size)
            read = file.readinto(data)
            place = slice(2 * ROW_DIGEST * row, 2 * ROW_DIGEST * (row + 1))
            if read != size or _row_digest(data) != digests[ROWS + name][place]:
                raise ValueError(f"the digest of row {row} of {name} is not the recorded one")
            dtype = getattr(torch, DTYPES[described["dtype"]])
            flat = torch.frombuffer(data, dtype=dtype) if size else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(shape)
    return tensors


def _rows(tensor: "Tensor") -> Iterator[memoryview]:
    data, rows = _buffer(tensor), len(tensor)
    size = len(data) // max(1, rows)
    return (data[row * size : (row + 1) * size] for row in range(rows))


def _row_digest(data: bytearray | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=ROW_DIGEST).hexdigest()


def _buffer(tensor: "Tensor") -> memoryview:
    """Return the bytes of a tensor, in main memory."""
    import torch

    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


def _type_name(tensor: "Tensor") -> str:
    wanted = str(tensor.dtype).removeprefix("torch.")
    for name, known in DTYPES.items():
        if known == wanted:
            return name
    raise ValueError(f"tensors of type {wanted} cannot be stored")
