"""The images of a shard, decoded when they are asked for."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, overload

from capo.rewards.rgb_images import decode_image, decoded_bytes

if TYPE_CHECKING:
    from PIL import Image

KEPT_BYTES = 1 << 28
"""Decoded images are kept for all rewards if they take no more than this, together."""


class DecodedImages(Sequence["Image.Image"]):
    """Images as a sequence. Many large ones are decoded slice by slice, the next slice ahead of its use.

    Threads decode them, as many as the machine has cores.
    """

    def __init__(self, files: Sequence[memoryview]) -> None:
        """Decode all images now if they are kept; raises `ValueError` for a file that is not an image."""
        self._files = files
        self._threads = ThreadPoolExecutor(os.cpu_count(), "decode")
        self._decoded: dict[int, Future[Image.Image]] = {}
        self._kept = sum(map(decoded_bytes, files)) <= KEPT_BYTES
        if self._kept:
            self.take(range(len(files)))

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, place: int) -> "Image.Image": ...
    @overload
    def __getitem__(self, place: slice) -> "Sequence[Image.Image]": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | Sequence[Image.Image]":
        return self.chosen(range(len(self)))[place]

    def chosen(self, rows: Sequence[int]) -> "Sequence[Image.Image]":
        """Return the images of some rows, as a sequence that also decodes them when asked."""
        return _Chosen(self, rows)

    def take(self, rows: Sequence[int], ahead: Sequence[int] = ()) -> "list[Image.Image]":
        """Decode some rows, and start to decode those that will be needed next."""
        for row in (*rows, *ahead):
            if row not in self._decoded:
                self._decoded[row] = self._threads.submit(decode_image, self._files[row])
        images = [self._decoded[row].result() for row in rows]
        if not self._kept:
            self._decoded = {row: self._decoded[row] for row in ahead}
        return images


class _Chosen(Sequence["Image.Image"]):
    def __init__(self, images: DecodedImages, rows: Sequence[int]) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> "Image.Image": ...
    @overload
    def __getitem__(self, place: slice) -> "Sequence[Image.Image]": ...
    def __getitem__(self, place: int | slice) -> "Image.Image | Sequence[Image.Image]":
        if isinstance(place, int):
            return self._images.take([self._rows[place]])[0]
        rows = self._rows[place]
        start, stop, _ = place.indices(len(self))
        return self._images.take(rows, ahead=self._rows[stop : stop + max(0, stop - start)])
