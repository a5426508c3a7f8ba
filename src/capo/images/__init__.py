"""Image files: how an artifact keeps them, how existing images come in, and how pairs go out.

Kept in an artifact: `shard_files` has the layout, `sample_table` the tables, `shard_builder` a shard while it
is filled, `encoding` the image formats, `disk_space` the forecast.

In: `open_images` reads the captions of a folder, of Parquet files or of a Hub data set and, where two images
were compared, which one people preferred. `sample_import` and `evaluation_import` copy the images into a run.

Out: `PAIR_WRITERS`, in layouts that `open_images` and other trainers read.
"""

from capo.images.entries import Entry, ImagesError, ImageSource, count_entries
from capo.images.pair_writers import PAIR_WRITERS, Pair, PairWriter
from capo.images.sources import check_images, images_identity, images_inputs, open_images

__all__ = [
    "PAIR_WRITERS",
    "Entry",
    "ImageSource",
    "ImagesError",
    "Pair",
    "PairWriter",
    "check_images",
    "count_entries",
    "images_identity",
    "images_inputs",
    "open_images",
]
