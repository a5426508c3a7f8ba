"""GenEval 2: objects, attributes, counts, positions and verbs, in prompts of 3 to 10 atoms, by Soft-TIFA.

Kamath et al., "GenEval 2: Addressing Benchmark Drift in Text-to-Image Evaluation" (2025). 800 prompts, one
image each, and for an image the probability of the right answer to each of its prompt's questions.
"""

import json
import math
from collections.abc import Mapping, Sequence

from capo.benchmarks.definition import FAILED, Benchmark, Layout, Row
from capo.benchmarks.judges.soft_tifa import SKILLS, SoftTifa, geometric_mean
from capo.benchmarks.summary import Score, Summary, by_category, mean_by_prompt
from capo.prompts import Prompt

OFFICIAL, DEDUPLICATED = "official", "deduplicated"
FIELD = {OFFICIAL: "score", DEDUPLICATED: "deduplicated"}
"""Field of an answer by variant."""


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return Soft-TIFA over prompts, by skill and by number of atoms.

    `GM` is the mean over prompts of the geometric mean of their questions, `AM` that of the arithmetic mean.
    The number of a skill is the mean over all its questions, whatever their prompt. That of `3 atoms` is the
    `GM` of the prompts with three.
    """
    field = FIELD[variant]
    means = [_with_means(row, field) for row in rows]
    prompts = (Score("GM", mean_by_prompt(means, "gm")), Score("AM", mean_by_prompt(means, "am")))
    skills = tuple(score for skill in SKILLS if (score := _skill(rows, skill, field)).values)
    return Summary((*prompts, *skills, *by_category(means, "gm")), "GM")


def image_path(number: int, prompt: Prompt, image: int) -> str:
    """Return `images/00000.png`, or `images/00000_1.png` for a second image, which has no official place."""
    return f"images/{number:05d}{f'_{image}' if image else ''}.png"


def image_files(prompts: Sequence[Prompt]) -> Mapping[str, str]:
    """Return the table of prompts and images that the official script reads."""
    paths = {prompt.text: image_path(number, prompt, 0) for number, prompt in enumerate(prompts)}
    return {"image_paths.json": json.dumps(paths, indent=1)}


def score_files(prompts: Sequence[Prompt], rows: Sequence[Row]) -> Mapping[str, str]:
    """Return `score_lists.json` of all prompts' first images, as the official script writes it.

    The official analysis reads it beside the prompts, so there is no file while any image is missing.
    """
    first = {row["prompt"]: row for row in rows if row["image"] == 0 and FAILED not in row}
    if len(first) < len(prompts):
        return {}
    lists = [[answer["score"] for answer in first[number]["answers"]] for number in range(len(prompts))]
    return {"score_lists.json": json.dumps(lists)}


def _with_means(row: Row, field: str) -> Row:
    values = [answer[field] for answer in row["answers"]]
    return {**row, "gm": geometric_mean(values), "am": sum(values) / len(values)}


def _skill(rows: Sequence[Row], skill: str, field: str) -> Score:
    """Return the mean over all questions of a skill: every prompt's mean, weighted by its questions."""
    values: dict[int, list[float]] = {}
    for row in rows:
        found = [answer[field] for answer in row["answers"] if answer["skill"] == skill]
        if found:
            values.setdefault(row["prompt"], []).extend(found)
    weights = {prompt: float(len(found)) for prompt, found in values.items()}
    return Score(skill, {prompt: sum(found) / len(found) for prompt, found in values.items()}, weights)


GENEVAL2 = Benchmark(
    name="geneval2",
    title="GenEval 2",
    prompts="geneval2",
    images=1,
    judges={"qwen3-vl": SoftTifa},
    summarize=summarize,
    layout=Layout(image_path, companions=image_files, results=score_files),
    variants=(OFFICIAL, DEDUPLICATED),
    bounds=(0.0, math.inf),  # the official sum can exceed 1
    unit=0.01,
    licenses={"prompts": "CC BY-NC 4.0", "qwen3-vl": "Apache-2.0"},
)
