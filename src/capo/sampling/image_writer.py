"""Latents to image files, in a thread beside the sampling of the next ones."""

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


class Finisher:
    """Decodes and encodes batches in the order they are submitted, one at a time.

    Sampling and decoding share a CUDA stream: with one each, the device would hold the memory of
    both apart, and work no faster. What is gained is that it never waits for image files.
    """

    def __init__(self, family: "Family", image_format: str) -> None:
        self.sampling = threading.Lock()
        """To be held while a batch is sampled: what decodes alone waits for it."""
        self._family = family
        self._image_format = image_format
        self._thread = ThreadPoolExecutor(1, "finisher")
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, latents: "Tensor") -> "Future[list[bytes]]":
        """The files of latents [B, C, H, W] on the CPU, soon; raises what an earlier batch failed with."""
        if self._failed is not None:
            raise self._failed
        return self._thread.submit(self._finish, latents)

    def _finish(self, latents: "Tensor") -> list[bytes]:
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
        # Alone on the device, and an image at a time.
        with self.sampling, explain_out_of_memory("generate.height and generate.width"):
            release_memory()
            return [image for one in latents.split(1) for image in self._family.decode(one)]
