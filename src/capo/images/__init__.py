"""Images and preferences that come from elsewhere, and how ours go out.

In: `open_images` finds the images of a folder, of Parquet files or of a Hub data set, with their
captions and, where two images were compared, what people preferred. Out: `WRITERS` of pairs, in
layouts that `open_images` and other trainers read.
"""

from capo.images.entries import Entry, ExchangeError, ImageSource, summary
from capo.images.opening import images_identity, images_inputs, open_images
from capo.images.writing import WRITERS, Pair, PairWriter

__all__ = [
    "WRITERS",
    "Entry",
    "ExchangeError",
    "ImageSource",
    "Pair",
    "PairWriter",
    "images_identity",
    "images_inputs",
    "open_images",
    "summary",
]
