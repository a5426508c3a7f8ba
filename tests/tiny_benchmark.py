"""A benchmark without a model: one prompt a line, images of one color, and a judge that reads the color."""

from pathlib import Path

import numpy as np
from PIL import Image

from capo.benchmarks.definition import Benchmark, Layout, Published, failed
from capo.benchmarks.standalone import standalone_recipe, with_benchmark
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.pipeline import run

BAD = {
    "raises": lambda judgments: 1 / 0,
    "too-few": lambda judgments: judgments[1:],
    "empty": lambda judgments: [{} for _ in judgments],
    "no-object": lambda judgments: [True for _ in judgments],
    "reserved": lambda judgments: [{**j, "prompt": 0} for j in judgments],
    "not-finite": lambda judgments: [{"score": float("nan")} for _ in judgments],
}
"""Ways in which a judge may misbehave, by the option `bad`."""


class Redness:
    """Accepts an image by the red of its first pixel; 128 cannot be judged."""

    def __init__(self, *, bad: str = "", name: str = "redness") -> None:
        if bad and bad not in BAD:
            raise ValueError(f"bad: {bad!r} is unknown")
        self.name, self.official, self._bad = name, name == "redness", bad
        self.fingerprint = f"{name} 1"

    def check(self, prompts):
        if any("unjudgeable" in prompt.text for prompt in prompts):
            raise ValueError("an unjudgeable prompt")

    def load(self, device):
        def judge(images, prompts):
            reds = [image.getpixel((0, 0))[0] for image in images]
            judgments = [failed("no red and no blue") if r == 128 else {"correct": r > 128} for r in reds]
            return BAD[self._bad](judgments) if self._bad else judgments

        return judge


def summarize(rows, variant):
    scale = 1.0 if variant == "official" else 0.5
    values = {prompt: scale * value for prompt, value in mean_by_prompt(rows, "correct").items()}
    return Summary((Score("all", values),), "all", {"rows": len(rows)})


def image_path(number, prompt, image):
    return f"{number}/{image}.png"


def results(prompts, rows):
    return {"results.txt": "".join(f"{row['prompt']} {row.get('correct')}\n" for row in rows)}


TINY = Benchmark(
    name="tiny",
    title="Tiny",
    prompts="drawbench",
    images=2,
    judges={"redness": Redness, "other": lambda **options: Redness(name="other", **options)},
    summarize=summarize,
    layout=Layout(image_path, results=results),
    variants=("official", "halved"),
    published=(Published("somebody's model", {"all": 0.25}, "a paper, Table 1"),),
    licenses={"prompts": "MIT"},
)

GRID = Benchmark(
    name="grid",
    title="Grid",
    prompts="drawbench",
    images=4,
    judges={"redness": Redness},
    summarize=summarize,
    layout=Layout(lambda number, prompt, image: f"{number}.png", tiles=4),
)


def install(monkeypatch):
    """Register both benchmarks."""
    from capo.benchmarks.registry import SHIPPED

    monkeypatch.setitem(SHIPPED, "tiny", f"{__name__}:TINY")
    monkeypatch.setitem(SHIPPED, "grid", f"{__name__}:GRID")


def write_prompts(folder: Path, *texts: str) -> str:
    path = folder / "prompts.txt"
    path.write_text("".join(f"{text}\n" for text in texts))
    return str(path)


def write_images(folder: Path, reds) -> str:
    """Write images in the layout of `tiny` with these reds [P, K]."""
    for number, row in enumerate(reds):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        for image, red in enumerate(row):
            pixels = np.full((8, 8, 3), red, np.uint8)
            Image.fromarray(pixels).save(folder / str(number) / f"{image}.png")
    return str(folder)


def measure(directory: Path, images: str, prompts: str, name: str = "tiny", **given):
    """Measure a folder of images; returns the results."""
    recipe = standalone_recipe(name, images, "--model")
    recipe = with_benchmark(recipe, name, {"model": images, "prompts": prompts, **given})
    return run(recipe, directory, stage="benchmark").benchmarks[name]
