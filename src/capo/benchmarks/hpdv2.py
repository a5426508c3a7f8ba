"""HPDv2's benchmark: mean HPSv2 of 800 prompts in each of four styles.

Wu et al., "Human Preference Score v2" (2023): 100 times the cosine; the deviation is that of the means of
ten chunks of 80 prompts. Scores of HPSv2 and HPSv2.1 are not comparable.
"""

from collections.abc import Sequence

import numpy as np

from capo.benchmarks.definition import Benchmark, Layout, Published, Row
from capo.benchmarks.judges.reward_scores import official_reward
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.prompts import Prompt
from capo.prompts.benchmark_prompts import STYLES

CHUNK = 80
"""Prompts in a chunk, in the official order."""
AVERAGE = "average"
FACTS = ("style", "index")
FILES = "anime.json, concept-art.json, paintings.json and photo.json (huggingface.co/datasets/zhwang/HPDv2)"
SOURCE = "github.com/tgxs002/HPSv2, README"


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the mean of the chunks by style, and the mean over all prompts.

    `details` has the deviation over the chunks of a style.
    """
    scores, deviations = [], {}
    for style in dict.fromkeys(row["style"] for row in rows):
        of_style = sorted((row for row in rows if row["style"] == style), key=lambda row: row["index"])
        values = mean_by_prompt(of_style, "score")
        prompts = list(values)
        chunks = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
        weights = {prompt: 1 / (len(chunks) * len(chunk)) for chunk in chunks for prompt in chunk}
        scores.append(Score(style, values, weights))
        means = [np.mean([values[prompt] for prompt in chunk]) for chunk in chunks]
        deviations[style] = float(np.std(means))
    strata = {row["prompt"]: row["style"] for row in rows}
    average = Score(AVERAGE, mean_by_prompt(rows, "score"), strata=strata)
    return Summary((*scores, average), AVERAGE, {"deviation over chunks": deviations})


def _path(number: int, prompt: Prompt, image: int) -> str:
    return f"{prompt.metadata['style']}/{prompt.metadata['index']:05d}.jpg"


def _published(model: str, values: str) -> Published:
    numbers = map(float, values.split())
    return Published(f"{model} (HPSv2.1)", dict(zip((*STYLES, AVERAGE), numbers, strict=True)), SOURCE)


HPDV2 = Benchmark(
    name="hpdv2",
    title="HPDv2",
    prompts="hpdv2",
    images=1,
    judges={
        source: official_reward(source, scale=100, facts=FACTS, facts_source=FILES)
        for source in ("hpsv2.1", "hpsv2")
    },
    summarize=summarize,
    layout=Layout(_path),
    bounds=None,
    point=0.1,
    published=(
        _published("SDXL Refiner 0.9", "33.26 32.07 31.63 28.38 31.34"),
        _published("SDXL Base 0.9", "32.84 31.36 30.86 27.48 30.63"),
        _published("Deliberate", "31.46 30.48 30.17 28.83 30.23"),
        _published("Realistic Vision", "31.01 29.95 30.00 28.61 29.89"),
        _published("SD 2.0", "27.09 26.02 25.68 26.73 26.38"),
        _published("SD 1.4", "26.03 24.87 24.80 25.70 25.35"),
    ),
    licenses={"prompts": "Apache-2.0", "hpsv2.1": "Apache-2.0", "hpsv2": "Apache-2.0"},
)
