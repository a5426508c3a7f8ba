"""Turn latents into image files, in a thread of its own while the next latents are sampled."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from capo.engine.memory import explain_out_of_memory, release_memory
from capo.images.encoding import encode_image

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from capo.diffusion.family import Family


class ImageWriter:
    """Decodes and encodes batches of latents, one at a time and in the order they are submitted.

    Sampling and decoding share a CUDA stream: separate streams would need separate memory and be no faster.
    The gain is that the device never waits for image files to be encoded.
    """

    def __init__(self, family: "Family", image_format: str) -> None:
        self.sampling = threading.Lock()
        """Held while a batch is sampled; decoding that needs the device to itself waits for it."""
        self._family = family
        self._image_format = image_format
        self._thread = ThreadPoolExecutor(1, "image-writer")
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, latents: "Tensor") -> "Future[list[bytes]]":
        """Queue latents [B, C, H, W] on the CPU; the future returns their image files.

        Raises the error of an earlier batch, if one failed.
        """
        if self._failed is not None:
            raise self._failed
        return self._thread.submit(self._encode, latents)

    def _encode(self, latents: "Tensor") -> list[bytes]:
        try:
            images = self._decode(latents)
            return [encode_image(image, self._image_format) for image in images]
        except BaseException as error:
            self._failed = error
            raise

    def _decode(self, latents: "Tensor") -> "list[Image.Image]":
        import torch

        try:
            return self._family.decode(latents)
        except torch.OutOfMemoryError:
            pass
        # Retry with the device to itself, one image at a time.
        with self.sampling, explain_out_of_memory("generate.height and generate.width"):
            release_memory()
            return [image for one in latents.split(1) for image in self._family.decode(one)]
