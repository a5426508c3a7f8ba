"""One line about what a stage made: `prompts: 192 prompts, 3 duplicates`."""

from capo.engine.events import StageResult

PARTS = {
    "prompts": {
        "prompts": "{:,} prompts",
        "duplicates": "{:,} duplicates",
        "images": "{:,} images",
        "without_caption": "{:,} without a caption",
    },
    "samples": {
        "samples": "{:,} images",
        "prompts": "{:,} prompts",
        "truncated_prompts": "{:,} prompts longer than the text encoders read",
        "unreadable": "{:,} unreadable",
        "enlarged": "{:,} smaller than the model's size",
    },
    "scores": {"scored": "{:,} scores", "missing": "{:,} missing", "mean": "mean {:.4g}"},
    "pairs": {
        "pairs": "{:,} prompts with pairs",
        "no_pair": "{:,} without",
        "dropped": "{:,} dropped for missing scores",
        "mean_delta_reward": "mean ΔR {:.3f}",
    },
    "validation": {"prompts": "{:,} prompts", "samples_per_prompt": "{:,} images each"},
    "train": {
        "steps": "{:,} steps",
        "best_step": "best at step {:,}",
        "best_win_rate": "win-rate over the base {:.1%}",
        "roll_backs": "{:,} roll-backs",
    },
    "baseline": {"prompts": "{:,} prompts", "samples_per_prompt": "{:,} images each"},
    "evaluate": {"prompts": "{:,} prompts", "training_win_rate": "win-rate over the base {:.1%}"},
    "report": {"bytes": "{:,} bytes"},
}
"""By kind of artifact: the numbers of its summary, and how the line says them. Zeros are left out."""


def stage_line(result: StageResult) -> str:
    """Return what was made, from the summary of the artifact, and how long it took."""
    parts = PARTS.get(result.name.partition("/")[0], {})
    said = [text.format(result.summary[name]) for name, text in parts.items() if result.summary.get(name)]
    return f"{result.name}: {', '.join([*said, f'{result.seconds:.1f} s'])}"
