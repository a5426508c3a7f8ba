"""The model card that a policy has on the Hub: its own, with the results and images of the evaluation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from capo.reporting.results_schema import Results, RewardResult
from capo.reporting.wording import verdict

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

COMPARISON = "images/comparison.png"
"""The picture of base and tuned model side by side."""

_AFTER = "## Origin"
"""The section of a policy's card that results are put before."""


def evaluated_card(card: str, name: str, source: str, results: Results, examples: Mapping[str, str]) -> str:
    """Return the card of a policy with the results of its evaluation on the prompts of `source`.

    `name` is that of the run, and `examples` are paths of images in the repository, by prompt.
    """
    from huggingface_hub import ModelCard

    parsed = ModelCard(card)
    data: Any = parsed.data  # typed as the data of any card
    data.model_name = data.model_name or name
    data.eval_results = [*(data.eval_results or []), *_eval_results(source, results)]
    data.widget = [{"text": prompt, "output": {"url": path}} for prompt, path in examples.items()]
    before, heading, after = parsed.text.partition(_AFTER)
    parsed.text = f"{before.rstrip()}\n\n{_section(results)}\n{heading}{after}"
    return str(parsed)


def _eval_results(source: str, results: Results) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    rates = {"mean of the training rewards": results.training_win_rate.value}
    rates |= {reward.name: reward.win_rate for reward in results.rewards}
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=source,
            dataset_name="evaluation prompts",
            metric_type="win_rate",
            metric_name=f"win-rate over the base, {name}",
            metric_value=round(rate, 4),
        )
        for name, rate in rates.items()
    ]


def _section(results: Results) -> str:
    rows = "\n".join(map(_row, results.rewards))
    warnings = "".join(f"- {warning}\n" for warning in results.warnings)
    return f"""\
## Evaluation

{verdict(results).sentence}

Win-rates over the base on {results.prompts:,} other prompts, with {results.samples_per_prompt} images per
prompt from each model and 95% intervals over prompts. The last column is the base against itself with other
seeds.

| reward | use | win-rate | 95% interval | chance |
|---|---|--:|--:|--:|
{rows}

{warnings}
![Images of the base and of this model, for the same prompts and noise]({COMPARISON})
"""


_USES = {"train": "trained on", "evaluate": "held out"}


def _row(reward: RewardResult) -> str:
    cells = [reward.name, _USES[reward.use], f"{reward.win_rate:.1%}"]
    cells += [f"{reward.low:.1%} to {reward.high:.1%}", _percent(reward.null_win_rate)]
    return f"| {' | '.join(cells)} |"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}"
