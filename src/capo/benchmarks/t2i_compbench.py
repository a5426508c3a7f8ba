"""T2I-CompBench and T2I-CompBench++: attributes, relations, numbers and their combinations.

Huang et al. (2023, 2025). Every category has its own measure; there is no overall score. The paper of CaPO
measures `complex` by BLIP-VQA, its authors by the mean of three measures (3-in-1).
"""

from collections.abc import Mapping, Sequence

from capo.benchmarks.definition import Benchmark, Layout, Published, Row
from capo.benchmarks.judges import grounding_dino
from capo.benchmarks.judges.compbench_judge import CompBenchJudge
from capo.benchmarks.judges.compbench_results import IMAGES, OfficialResults
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.prompts import Prompt

SOURCE = "CaPO (CVPR 2025), Table 3"
COLUMNS = ("color", "shape", "texture", "complex (BLIP-VQA)", "spatial", "non-spatial")


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the mean of every score that the judgments have, in order of appearance."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        for name, value in _scores(row).items():
            by_name.setdefault(name, []).append({"prompt": row["prompt"], "value": value})
    return Summary(tuple(Score(name, mean_by_prompt(values, "value")) for name, values in by_name.items()))


def _scores(row: Row) -> Mapping[str, float]:
    """Return the scores of an image by name; official results hold those of all images of the prompt."""
    if "by_image" not in row:
        scores: Mapping[str, float] = row["scores"]
        return scores
    of_prompt: Sequence[Mapping[str, float]] = row["by_image"]
    if row["image"] >= len(of_prompt):
        raise ValueError(f"official results have {len(of_prompt)} images per prompt, not {row['image'] + 1}")
    return of_prompt[row["image"]]


def _path(number: int, prompt: Prompt, image: int) -> str:
    index = prompt.metadata["line"] * IMAGES + image
    return f"{prompt.category}/samples/{prompt.text.replace('/', ' ')}_{index:06d}.png"


def _with_detector(*, detector: str = grounding_dino.WEIGHTS, **options: object) -> CompBenchJudge:
    return CompBenchJudge(detector=detector, **options)  # type: ignore[arg-type]


def _published(model: str, values: str) -> Published:
    return Published(model, dict(zip(COLUMNS, map(float, values.split()), strict=True)), SOURCE)


T2I_COMPBENCH = Benchmark(
    name="t2i-compbench",
    title="T2I-CompBench",
    prompts="t2i-compbench",
    images=IMAGES,
    judges={
        "grounding-dino": _with_detector,
        "blip-clip": CompBenchJudge,
        "unidet-results": OfficialResults,
    },
    summarize=summarize,
    layout=Layout(_path),
    bounds=(-1.0, 1.0),  # CLIPScore is a cosine
    published=(
        _published("SDXL", "0.592 0.500 0.608 0.465 0.159 0.312"),
        _published("CaPO+SDXL", "0.646 0.537 0.633 0.491 0.172 0.312"),
        _published("SD3-M", "0.775 0.546 0.712 0.505 0.221 0.309"),
        _published("CaPO+SD3-M", "0.788 0.572 0.731 0.509 0.230 0.313"),
        _published("FLUX.1-dev", "0.740 0.486 0.650 0.477 0.220 0.306"),
        _published("FLUX.1-schnell", "0.642 0.509 0.646 0.424 0.185 0.304"),
        _published("SD3.5-L", "0.763 0.602 0.766 0.520 0.219 0.314"),
    ),
    licenses={
        "prompts": "MIT",
        "grounding-dino": "BLIP: BSD-3-Clause, CLIP: MIT, Grounding DINO: Apache-2.0",
        "blip-clip": "BLIP: BSD-3-Clause, CLIP: MIT",
        "unidet-results": "UniDet: the authors' code is for research only (NVIDIA Source Code License-NC)",
    },
)
