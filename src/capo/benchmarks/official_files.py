"""Images in a benchmark's official layout: written for the authors' scripts, and read as a model's images."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from capo.benchmarks.artifacts import artifact_name, sides
from capo.benchmarks.definition import Layout
from capo.benchmarks.setup import set_up
from capo.images.entries import Entry, ImagesError
from capo.images.shard_files import read_samples
from capo.prompts import Prompt
from capo.prompts.folder_files import file_problem
from capo.recipe import BenchmarkSection
from capo.rewards.rgb_images import decode_image
from capo.store.step import Job

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Format by the suffix of an official path, saved with Pillow's defaults as in the authors' own examples."""


def write_official(section: BenchmarkSection, job: Job) -> None:
    """Write the images of all measured models, and the files beside them, and commit them."""
    setup, artifact = set_up(section), job.artifact
    prompts, layout = setup.load_prompts(job.recipe.seed), setup.benchmark.layout
    numbers = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    for side in sides(section):
        for path, text in layout.companions(prompts).items():
            artifact.write_bytes(f"{side}/{_inside(path)}", text.encode())
        for table in read_samples(job.run.artifact(artifact_name(section.name, "images", side))):
            images: dict[int, list[Image.Image]] = {}
            for row in table.select(["prompt_id", "image"]).to_pylist():
                image = decode_image(row["image"]["bytes"])
                images.setdefault(numbers[row["prompt_id"]], []).append(image)
            for number, of_prompt in images.items():
                for path, image in _files(layout, number, prompts[number], of_prompt):
                    place = f"{side}/{_inside(path)}"
                    if not artifact.has(place):
                        artifact.write_bytes(place, _encoded(image, path))
    artifact.commit({"models": len(sides(section)), "prompts": len(prompts)})


def _files(
    layout: Layout, number: int, prompt: Prompt, images: Sequence[Image.Image]
) -> Iterator[tuple[str, Image.Image]]:
    if layout.tiles == 1:
        for n, image in enumerate(images):
            yield layout.path(number, prompt, n), image
        return
    yield layout.path(number, prompt, 0), _grid(images[: layout.tiles], layout.tiles)


def _grid(images: Sequence[Image.Image], tiles: int) -> Image.Image:
    """Join images of one size to a square grid, in reading order; the rest of an incomplete one is black."""
    side, (width, height) = math.isqrt(tiles), images[0].size
    grid = Image.new("RGB", (side * width, side * height))
    for n, image in enumerate(images):
        grid.paste(image, (n % side * width, n // side * height))
    return grid


def _encoded(image: Image.Image, path: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[PurePosixPath(path).suffix])
    return buffer.getvalue()


def _inside(path: str) -> str:
    """Return a relative path that stays in its folder; raises `ValueError` for any other."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path or "\0" in path:
        raise ValueError(f"the official path {path!r} leaves its folder")
    return pure.as_posix()


class OfficialImages:
    """Images of a folder in a benchmark's layout; a place is a path and the number of a tile."""

    without_caption = 0

    def __init__(self, folder: Path, layout: Layout, prompts: Sequence[Prompt], images: int) -> None:
        self._folder, self._layout, self._prompts, self._images = folder, layout, prompts, images

    @property
    def exists(self) -> bool:
        """True if the folder has any file of this layout."""
        return self._folder.is_dir() and any(entry.images for entry in self.entries)

    def check(self) -> None:
        """Raise `ImagesError` if a file beside the images says that they are of other prompts.

        Images are found by the number of their prompt, so another order, or only some of the prompts, would
        give every image a wrong verdict.
        """
        for path, text in self._layout.companions(self._prompts).items():
            file = self._folder / _inside(path)
            if file.is_file() and not _agrees(file.read_text(encoding="utf-8", errors="replace"), text):
                raise ImagesError(
                    f"{file} belongs to another prompt than the benchmark's file and `count` give; measure "
                    "the images with the prompts, in the order, that they were made of"
                )

    @cached_property
    def entries(self) -> list[Entry]:
        """Every prompt, captioned by its id, with the images that exist, numbers without gaps from 0."""
        return [
            # The id, since texts may repeat.
            Entry(Prompt(prompt.prompt_id, prompt.prompt_id), tuple(self._places(number, prompt)))
            for number, prompt in enumerate(self._prompts)
        ]

    def read(self, place: tuple[str, int]) -> bytes:
        """Return an image file; a tile of a grid is encoded again, without loss."""
        path, tile = place
        file = self._folder / path
        if (problem := file_problem(self._folder, file)) is not None:
            raise ImagesError(f"{self._folder}: {path!r}: {problem}; put a regular file there")
        data = file.read_bytes()
        return data if self._layout.tiles == 1 else self._tile(decode_image(data), path, tile)

    def name(self, place: tuple[str, int]) -> str:
        """Return the path, and the number of a tile."""
        path, tile = place
        return path if self._layout.tiles == 1 else f"{path}#{tile}"

    def _places(self, number: int, prompt: Prompt) -> Iterator[tuple[str, int]]:
        for n in range(self._images):
            image = n if self._layout.tiles == 1 else 0
            path = _inside(self._layout.path(number, prompt, image))
            if not (self._folder / path).exists():
                return
            yield path, n

    def _tile(self, grid: Image.Image, path: str, tile: int) -> bytes:
        side = math.isqrt(self._layout.tiles)
        if grid.width % side or grid.height % side:
            raise ImagesError(
                f"{self._folder / path}: {grid.width}×{grid.height} pixels are no grid of {side}×{side}"
            )
        width, height = grid.width // side, grid.height // side
        left, top = tile % side * width, tile // side * height
        return _encoded(grid.crop((left, top, left + width, top + height)), "tile.png")


def _agrees(found: str, expected: str) -> bool:
    """Return whether a file says what is expected; JSON objects may have more fields."""
    try:
        theirs, ours = json.loads(found), json.loads(expected)
    except ValueError:
        return found.strip() == expected.strip()
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return all(name in theirs and theirs[name] == value for name, value in ours.items())
    return bool(theirs == ours)
