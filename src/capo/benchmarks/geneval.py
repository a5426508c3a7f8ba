"""GenEval: single and two objects, counting, colors, positions and color attribution.

Ghosh et al., "GenEval" (2023). 553 prompts, four images each; an image is correct or not.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from capo.benchmarks.definition import FAILED, Benchmark, Layout, Published, Row
from capo.benchmarks.judges.geneval_judge import CONVERSION, GenEvalJudge
from capo.benchmarks.summary import Summary, by_category, mean_of_means
from capo.prompts import Prompt

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The tags of the prompts, in the order of the prompts and of published tables."""

README = "GenEval, README of djghosh13/geneval"
CAPO = "CaPO (CVPR 2025), Table 3"


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the share of correct images in every category, and their unweighted mean as `overall`.

    The details are the other numbers of the official summary.
    """
    scores = by_category(rows, "correct")
    prompts = {row["prompt"]: False for row in rows}
    for row in rows:
        prompts[row["prompt"]] |= bool(row["correct"])
    details = {
        "images": len(rows),
        "prompts": len(prompts),
        "correct_images": sum(bool(row["correct"]) for row in rows) / len(rows) if rows else None,
        "correct_prompts": sum(prompts.values()) / len(prompts) if prompts else None,
    }
    return Summary((mean_of_means("overall", scores), *scores), "overall", details)


def image_path(number: int, prompt: Prompt, image: int) -> str:
    """Return `00000/samples/00000.png`: prompt and image."""
    return f"{number:05d}/samples/{image:05d}.png"


def metadata_files(prompts: Sequence[Prompt]) -> Mapping[str, str]:
    """Return every prompt's line of `evaluation_metadata.jsonl`, beside its images."""
    return {f"{number:05d}/metadata.jsonl": _metadata(prompt) for number, prompt in enumerate(prompts)}


def results_file(prompts: Sequence[Prompt], rows: Sequence[Row]) -> Mapping[str, str]:
    """Return `results.jsonl` as the official script writes it, without images that could not be judged."""
    lines = [json.dumps(_result(prompts[row["prompt"]], row)) for row in rows if FAILED not in row]
    return {"results.jsonl": "".join(f"{line}\n" for line in lines)}


def _result(prompt: Prompt, row: Row) -> dict[str, object]:
    details: dict[str, list[list[float]]] = {}
    for box in row["boxes"]:
        details.setdefault(box["class"], []).append([*box["box"], box["confidence"]])
    return {
        "filename": image_path(row["prompt"], prompt, row["image"]),
        "tag": prompt.category,
        "prompt": prompt.text,
        "correct": row["correct"],
        "reason": row["reason"],
        "metadata": _metadata(prompt),
        "details": json.dumps(details),
    }


def _metadata(prompt: Prompt) -> str:
    return json.dumps({**prompt.metadata, "prompt": prompt.text})


def _published(model: str, source: str, overall: float, *categories: float) -> Published:
    return Published(model, {"overall": overall, **dict(zip(CATEGORIES, categories, strict=True))}, source)


GENEVAL = Benchmark(
    name="geneval",
    title="GenEval",
    prompts="geneval",
    images=4,
    judges={"mask2former": GenEvalJudge, "hf-mask2former": partial(GenEvalJudge, detector=CONVERSION)},
    summarize=summarize,
    layout=Layout(image_path, companions=metadata_files, results=results_file),
    published=(
        _published("SD 1.5", README, 0.43, 0.97, 0.38, 0.35, 0.76, 0.04, 0.06),
        _published("SD 2.1", README, 0.50, 0.98, 0.51, 0.44, 0.85, 0.07, 0.17),
        _published("SDXL", README, 0.55, 0.98, 0.74, 0.39, 0.85, 0.15, 0.23),
        _published("IF-XL", README, 0.61, 0.97, 0.74, 0.66, 0.81, 0.13, 0.35),
        _published("SD3-M", CAPO, 0.68, 0.99, 0.84, 0.56, 0.84, 0.32, 0.52),
        _published("SD3.5-L", CAPO, 0.69, 0.99, 0.89, 0.62, 0.82, 0.26, 0.53),
        _published("FLUX-schnell", CAPO, 0.60, 0.99, 0.81, 0.58, 0.63, 0.25, 0.35),
        _published("FLUX-dev", CAPO, 0.66, 0.98, 0.84, 0.67, 0.76, 0.23, 0.46),
        _published("CaPO+SDXL", CAPO, 0.59, 0.99, 0.79, 0.48, 0.86, 0.15, 0.28),
        _published("CaPO+SD3-M", CAPO, 0.71, 0.99, 0.87, 0.63, 0.86, 0.31, 0.59),
    ),
    licenses={
        "prompts": "MIT",
        "mask2former": "Apache-2.0 (mmdet's Mask2Former); MIT (OpenAI's CLIP)",
        "hf-mask2former": "CC BY-NC 4.0 (Facebook's Mask2Former); MIT (OpenAI's CLIP)",
    },
)
