"""DPG-Bench: questions about dense prompts, some of which depend on others.

Hu et al., "ELLA" (2024). A question counts only if those it depends on were answered yes. The authors'
script has two faults, which the variant `official` mirrors because published numbers contain them:

- It skips the first question of the file, and then fails on that item if others depend on the question, so
  that the item is missing from the mean.
- Scores by category are those of the last of the four images, before dependencies are applied.

The variant `fixed` counts every question of every image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.benchmarks.definition import Benchmark, Layout, Published, Row
from capo.benchmarks.judges.question_answers import question_judge, reward_questions
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.prompts import Prompt

OFFICIAL, FIXED = "official", "fixed"
OVERALL = "overall"
Question = Mapping[str, Any]
"""An answered question: `id`, `category`, `depends`, `correct`, and `first` for the first of the file."""


def with_dependencies(questions: Sequence[Question], skip_first: bool = False) -> dict[int, bool] | None:
    """Return by id whether a question counts as answered yes, after dependencies.

    A question without its parents counts as no; parents that are no because of theirs pass that on, in
    the order of the questions. With `skip_first`, the first question of the file is left out, and None is
    returned if another depends on it. Otherwise, parents that do not exist are ignored.
    """
    kept = [question for question in questions if not (skip_first and question.get("first"))]
    counts = {question["id"]: bool(question["correct"]) for question in kept}
    for question in kept:
        parents = question["depends"]
        if skip_first and any(parent not in counts for parent in parents):
            return None
        counts[question["id"]] &= all(counts.get(parent, True) for parent in parents)
    return counts


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the mean over prompts, and means over questions by broad and by detailed category.

    `details` has the numbers of the prompts that the official script drops.
    """
    official = variant == OFFICIAL
    dropped: set[int] = set()
    totals: list[dict[str, float]] = []
    answers: dict[str, list[tuple[int, float]]] = {}
    last = max((row["image"] for row in rows), default=0)
    for row in rows:
        counts = with_dependencies(row["questions"], skip_first=official)
        if not counts:
            dropped.add(row["prompt"])
            continue
        totals.append({"prompt": row["prompt"], "value": sum(counts.values()) / len(counts)})
        if official and row["image"] != last:
            continue
        for question in row["questions"]:
            if question["id"] in counts:
                value = float(question["correct"] if official else counts[question["id"]])
                for name in _categories(question["category"]):
                    answers.setdefault(name, []).append((row["prompt"], value))
    overall = Score(OVERALL, mean_by_prompt(totals, "value"))
    categories = [_over_questions(name, answers[name]) for name in sorted(answers, key=_broad_first)]
    details = {"prompts that the official script drops": sorted(dropped)} if dropped else {}
    return Summary((overall, *categories), OVERALL, details)


def _categories(category: str) -> tuple[str, ...]:
    """Return the broad category of `entity - whole` and the detailed one, which may be the same."""
    broad = category.partition("-")[0].strip()
    return (broad,) if broad == category else (broad, category)


def _broad_first(name: str) -> tuple[bool, str]:
    return "-" in name, name


def _over_questions(name: str, answers: Sequence[tuple[int, float]]) -> Score:
    """Return the mean over questions, as means by prompt that weigh as many as the prompt has."""
    rows = [{"prompt": prompt, "value": value} for prompt, value in answers]
    weights: dict[int, float] = {}
    for prompt, _ in answers:
        weights[prompt] = weights.get(prompt, 0.0) + 1
    return Score(name, mean_by_prompt(rows, "value"), weights)


def _published(model: str, values: str, source: str) -> Published:
    names = ("global", "entity", "attribute", "relation", "other", OVERALL)
    return Published(model, dict(zip(names, map(float, values.split()), strict=True)), source)


def _path(number: int, prompt: Prompt, image: int) -> str:
    return f"{prompt.metadata['item_id']}.png"


DPG_BENCH = Benchmark(
    name="dpg-bench",
    title="DPG-Bench",
    prompts="dpg",
    images=4,
    judges={
        "qwen3-vl": question_judge("Qwen3-VL", "vqascore-qwen3-vl"),
        "llava": question_judge("LLaVA 1.5", "vqascore"),
        "reward": reward_questions,
    },
    summarize=summarize,
    layout=Layout(_path, tiles=4),
    variants=(OFFICIAL, FIXED),
    unit=0.01,
    published=(
        _published("SDXL", "83.27 82.43 80.91 86.76 80.41 74.65", "ELLA (2024), Table 4"),
        _published("DALL-E 3", "90.97 89.61 88.39 90.58 89.83 83.50", "ELLA (2024), Table 4"),
        _published("SD3-M", "87.90 91.01 88.83 80.70 88.68 84.08", "Janus-Pro (2025), Table 5"),
        _published("FLUX.1-dev", "74.35 90.00 88.96 90.87 88.33 83.84", "Qwen-Image (2025)"),
    ),
    licenses={
        "prompts": "Apache-2.0",
        "qwen3-vl": "Apache-2.0",
        "llava": "LLAMA-2",
        "reward": "that of the program; mPLUG: Apache-2.0",
    },
)
