"""The training curves of the report: one plot per quantity that training logged."""

import itertools

from capo.method.objective_table import OBJECTIVES
from capo.reporting import plots
from capo.reporting.gather import Material, TrainingLog
from capo.reporting.plots import Curve, Plot, ValueAxis


def training_plots(material: Material) -> list[Plot]:
    """Return the plots of all quantities that were logged, validation first."""
    uses_target = OBJECTIVES[material.recipe.train.objective].uses_delta_reward
    drawn = [
        _validation(material),
        _judge(material.training),
        *_margins(material.training, uses_target),
        *_errors(material.training),
    ]
    return [plot for plot in drawn if plot is not None]


def _validation(material: Material) -> Plot | None:
    """Win-rates of all rewards on the validation prompts."""
    training, results = material.training, material.results
    colors = [*zip(results.training, itertools.cycle(plots.SERIES), strict=False)]
    colors += [(reward, "held-out") for reward in results.held_out]
    rows = training.validation
    rewards = [
        plots.line_of(rows, f"win_rate/{r.name}", r.name + (", held out" if css == "held-out" else ""), css)
        for r, css in colors
    ]
    mean = plots.line_of(rows, "win_rate", "mean of training rewards", "mean", "standard_error")
    return plots.validation(mean, rewards, None if training.best is None else training.best["step"])


def _judge(training: TrainingLog) -> Plot | None:
    rows = training.validation
    return plots.curves(
        "Correct images",
        [
            plots.line_of(rows, "judge", "policy", "judge", "judge_standard_error"),
            plots.line_of(rows, "judge_base", "base", "null"),
        ],
        ValueAxis("share of validation images", percent=True),
        note="The judge only observes: it selects neither the best step nor the last one. Bars are 95% "
        "intervals of the difference from the base.",
    )


def _margins(training: TrainingLog, uses_target: bool) -> list[Plot | None]:
    """The loss and the implicit rewards that it acts on."""
    targets = [_line(training, "delta_reward", "target ΔR", "s2")] if uses_target else []
    return [
        plots.curves("Loss", [_line(training, "loss")], ValueAxis("loss", include=(0,))),
        plots.curves(
            "Margin of the implicit rewards",
            [_line(training, "rewards/margins", "margin u"), *targets],
            ValueAxis("margin", reference=0.0),
            note="The loss pulls the margin toward its target ΔR." if targets else "",
        ),
        plots.curves(
            "Implicit rewards",
            [
                _line(training, "rewards/chosen", "chosen", "chosen"),
                _line(training, "rewards/rejected", "rejected", "rejected"),
            ],
            ValueAxis("implicit reward, times β", reference=0.0),
        ),
        plots.curves(
            "Implicit accuracy",
            [_line(training, "rewards/accuracies", "accuracy")],
            ValueAxis("pairs ranked correctly", include=(0.4, 0.6), reference=0.5, percent=True),
        ),
    ]


def _errors(training: TrainingLog) -> list[Plot | None]:
    """The distance from the reference, and the size of the updates."""
    return [
        plots.curves(
            "Growth of the denoising error",
            [
                _line(training, "error/chosen", "chosen", "chosen"),
                _line(training, "error/rejected", "rejected", "rejected"),
            ],
            ValueAxis("change relative to the reference", reference=0.0, percent=True),
            note="The margin can grow while both errors grow. Watch the error on chosen images.",
        ),
        plots.curves(
            "Drift from the reference",
            [_line(training, "drift")],
            ValueAxis("mean squared difference", include=(0,)),
        ),
        plots.curves(
            "Gradient norm", [_line(training, "grad_norm")], ValueAxis("norm before clipping", include=(0,))
        ),
    ]


def _line(training: TrainingLog, key: str, label: str = "", css: str = "s1") -> Curve:
    return plots.line_of(training.metrics, key, label or key, css)
