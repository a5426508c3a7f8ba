"""Sources of prompts: files, data sets on the Hub, benchmarks, and installed packages.

load_prompts(PromptsSection(source="my-prompts.csv", column="english"), seed=0)
load_prompts(PromptsSection(source="geneval:geneval/prompts"), seed=0)
"""

from capo.prompts.loading import collect_prompts, load_prompts, load_rows, prompts_inputs, source_identity
from capo.prompts.prompt import Prompt, make_prompt
from capo.prompts.text_rules import PromptsError

__all__ = [
    "Prompt",
    "PromptsError",
    "collect_prompts",
    "load_prompts",
    "load_rows",
    "make_prompt",
    "prompts_inputs",
    "source_identity",
]
