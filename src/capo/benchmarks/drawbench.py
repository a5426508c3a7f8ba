"""DrawBench: means of rewards by category.

Saharia et al., "Imagen" (2022): 200 prompts for comparisons by people, without a scorer of their own.
"""

from capo.benchmarks.definition import Benchmark, Layout
from capo.benchmarks.judges.reward_scores import several_rewards
from capo.benchmarks.parti_prompts import numbered_path, summarize

DRAWBENCH = Benchmark(
    name="drawbench",
    title="DrawBench",
    prompts="drawbench",
    images=1,
    judges={"rewards": several_rewards()},
    summarize=summarize,
    layout=Layout(numbered_path),
    bounds=None,
    licenses={"prompts": "none stated", "rewards": "that of every reward: `capo rewards show NAME`"},
)
