"""PartiPrompts (P2): means of rewards by category and by challenge.

Yu et al., "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation" (2022). The prompts
have no scorer of their own: every reward gives its own numbers, on its own scale.
"""

from collections.abc import Sequence

from capo.benchmarks.definition import Benchmark, Layout, Published, Row
from capo.benchmarks.judges.reward_scores import several_rewards
from capo.benchmarks.summary import Score, Summary, mean_by_prompt
from capo.prompts import Prompt

CHALLENGE = "Challenge"
SOURCE = "CaPO (CVPR 2025), Table 2a"


def summarize(rows: Sequence[Row], variant: str) -> Summary:
    """Return the mean of every reward: over all prompts, by category, and by challenge.

    The headline is the mean of the first reward.
    """
    rewards = list(rows[0]["scores"]) if rows else []
    scores: list[Score] = []
    for reward in rewards:
        flat: list[Row] = [{**row, "value": row["scores"][reward]} for row in rows]
        groups: dict[str, list[Row]] = {reward: flat}
        for row in sorted(flat, key=lambda row: (str(row["category"]), row["prompt"])):
            if row["category"] is not None:
                groups.setdefault(f"{reward}, {row['category']}", []).append(row)
        for row in sorted(flat, key=lambda row: (str(row.get(CHALLENGE)), row["prompt"])):
            if row.get(CHALLENGE):
                groups.setdefault(f"{reward}, challenge {row[CHALLENGE]}", []).append(row)
        scores += [Score(name, mean_by_prompt(group, "value")) for name, group in groups.items()]
    return Summary(tuple(scores), rewards[0] if rewards else None)


def numbered_path(number: int, prompt: Prompt, image: int) -> str:
    """Return a path by the numbers of prompt and image, for prompts without an official layout."""
    return f"{number:05d}/{image:05d}.png"


def _published(model: str, mps: float, vqa: float, vila: float) -> Published:
    return Published(model, {"mps": mps, "vqascore-clip-flant5-xxl": vqa, "vila": vila}, SOURCE)


PARTI_PROMPTS = Benchmark(
    name="partiprompts",
    title="PartiPrompts",
    prompts="partiprompts",
    images=1,
    judges={"rewards": several_rewards((CHALLENGE,), "PartiPrompts.tsv")},
    summarize=summarize,
    layout=Layout(numbered_path),
    bounds=None,
    published=(_published("SDXL", 11.30, 0.826, 5.953), _published("CaPO+SDXL", 11.66, 0.839, 6.340)),
    licenses={"prompts": "Apache-2.0", "rewards": "that of every reward: `capo rewards show NAME`"},
)
