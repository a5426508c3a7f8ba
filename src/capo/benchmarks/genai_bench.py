"""GenAI-Bench: VQAScore by skill of compositional prompts.

Li et al., "GenAI-Bench" (2024): the mean over the prompts that need a skill, and over all of them. The
official judge is VQAScore by CLIP-FlanT5-XXL; other models give other levels.
"""

from collections.abc import Callable, Sequence

from capo.benchmarks.definition import Benchmark, Layout, Published, Row
from capo.benchmarks.judges.reward_scores import RewardScores, official_reward
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.prompts import Prompt

SKILLS = (
    ("attribute", "scene", "spatial relation", "action relation", "part relation", "basic"),
    ("counting", "comparison", "differentiation", "negation", "universal", "advanced"),
)
"""In the order of the official tables; the last of a group stands for the group."""
ALL = "all"
"""Every prompt that needs any skill. Seven of the 1,600 prompts have none, and count nowhere."""
SOURCE = "github.com/linzhiqiu/t2v_metrics, genai_bench/model_performance_vqacore.md; 1,600 prompts"


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the mean score by skill, and as `all` the mean over prompts with any skill."""
    with_skills = [row for row in rows if row["skills"]]
    known = [skill for group in SKILLS for skill in group]
    present = {skill: None for row in with_skills for skill in row["skills"]}
    names = [*(skill for skill in known if skill in present), *(s for s in present if s not in known)]
    scores = [
        Score(name, mean_by_prompt([row for row in with_skills if name in row["skills"]], "score"))
        for name in names
    ]
    return Summary((*scores, Score(ALL, mean_by_prompt(with_skills, "score"))), ALL)


def _path(number: int, prompt: Prompt, image: int) -> str:
    return f"{int(prompt.metadata['id']):05d}.jpeg"


def _published(model: str, values: str) -> Published:
    names = [skill for group in SKILLS for skill in group]
    return Published(model, dict(zip([*names, ALL], map(float, values.split()), strict=True)), SOURCE)


def _judge(source: str, official: bool) -> Callable[..., RewardScores]:
    return official_reward(
        source, official=official, facts=("skills",), facts_source="genai_image.json and genai_skills.json"
    )


GENAI_BENCH = Benchmark(
    name="genai-bench",
    title="GenAI-Bench",
    prompts="genai-bench",
    images=1,
    judges={
        source: _judge(source, official=source == "vqascore-clip-flant5-xxl")
        for source in ("vqascore-clip-flant5-xxl", "vqascore-clip-flant5-xl", "vqascore-qwen3-vl", "vqascore")
    },
    summarize=summarize,
    layout=Layout(_path),
    published=(
        _published("SD 2.1", "0.75 0.79 0.73 0.73 0.71 0.75 0.66 0.65 0.64 0.51 0.63 0.60 0.67"),
        _published("SDXL Turbo", "0.81 0.82 0.78 0.79 0.78 0.80 0.71 0.69 0.68 0.52 0.66 0.63 0.71"),
        _published("SDXL", "0.82 0.85 0.80 0.80 0.81 0.82 0.72 0.69 0.70 0.50 0.67 0.63 0.72"),
        _published("DeepFloyd IF", "0.82 0.83 0.80 0.81 0.81 0.82 0.70 0.71 0.70 0.50 0.65 0.63 0.71"),
        _published("Midjourney v6", "0.86 0.88 0.86 0.87 0.85 0.86 0.77 0.76 0.77 0.50 0.73 0.68 0.76"),
        _published("DALL-E 3", "0.91 0.91 0.90 0.90 0.91 0.90 0.80 0.77 0.80 0.49 0.75 0.69 0.78"),
    ),
    licenses={
        "prompts": "Apache-2.0",
        "vqascore-clip-flant5-xxl": "Apache-2.0",
        "vqascore-clip-flant5-xl": "Apache-2.0",
        "vqascore-qwen3-vl": "Apache-2.0",
        "vqascore": "LLAMA-2",
    },
)
