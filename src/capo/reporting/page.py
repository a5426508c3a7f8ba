"""Renders the material of a run as one HTML page that loads, runs and sends nothing."""

import itertools

from capo.method.objective_table import OBJECTIVES
from capo.recipe import dump_recipe
from capo.reporting import facts, plots
from capo.reporting.examples import Shown, spread
from capo.reporting.gather import Material
from capo.reporting.plots import Plot
from capo.reporting.templating import environment, outcome

SCATTER_PANELS = 6
SCATTER_PROMPTS = 3


def render(material: Material) -> str:
    """The whole page; equal material gives equal text, up to elements marked `data-wall-clock`."""
    given = {reward.name: reward.weight for reward in material.recipe.rewards}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            m=material,
            versions=material.versions,
            recipe=material.recipe,
            warnings=facts.warnings(material),
            histograms=_histograms(material),
            weights={name: given.get(name, 1.0) for name in material.pairs.rewards},
            comparisons={name: facts.comparison(value) for name, value in material.comparisons.items()},
            pair_facts=facts.of_pairs(material),
            deltas=plots.delta_histogram(material.pairs.delta_rewards),
            scatters=_scatters(material),
            scatter_keys=plots.SCATTER_KEYS,
            series=plots.SERIES,
            training=_training_plots(material),
            settings=facts.settings(material),
            recipe_yaml=dump_recipe(material.recipe),
            loading=facts.loading_code(material),
            **outcome(material.results),
        )
    )


def _histograms(material: Material) -> list[tuple[str, Plot, Plot | None]]:
    """Reward, raw scores and, for those that made the pairs, calibrated rewards (Fig. 6)."""
    pairs = material.pairs
    columns = {name: pairs.calibrated[:, i] for i, name in enumerate(pairs.rewards)}
    return [
        (
            name,
            plots.raw_histogram(name, scores),
            plots.calibrated_histogram(name, columns[name]) if name in columns else None,
        )
        for name, scores in material.raw_scores.items()
    ]


def _scatters(material: Material) -> list[tuple[Shown, list[Plot]]]:
    """For a few prompts, a panel for each two rewards."""
    pairs = material.pairs
    two = list(itertools.combinations(range(len(pairs.rewards)), 2))[:SCATTER_PANELS]
    count = min(SCATTER_PROMPTS, SCATTER_PANELS // len(two)) if two else 0
    shown = spread([material.prompts[p] for p in pairs.paired], count)
    return [(prompt, [plots.reward_scatter(pairs, prompt.prompt_id, *ij) for ij in two]) for prompt in shown]


def _training_plots(material: Material) -> list[Plot]:
    training = material.training
    results, rows = material.results, training.validation
    colours = [*zip(results.training, itertools.cycle(plots.SERIES), strict=False)]
    colours += [(reward, "held-out") for reward in results.held_out]
    validation = plots.validation(
        plots.line_of(rows, "win_rate", "mean of training rewards", "mean"),
        [
            plots.line_of(
                rows, f"win_rate/{r.name}", r.name + (", held out" if css == "held-out" else ""), css
            )
            for r, css in colours
        ],
        None if training.best is None else training.best["step"],
    )

    def line(key: str, label: str = "", css: str = "s1") -> plots.Curve:
        return plots.line_of(training.metrics, key, label or key, css)

    uses_target = OBJECTIVES[material.recipe.train.objective].uses_delta_reward
    targets = [line("delta_reward", "target ΔR", "s2")] if uses_target else []
    found = [
        validation,
        plots.curves(
            "Images found right",
            [
                plots.line_of(rows, "judge", "policy", "judge"),
                plots.line_of(rows, "judge_base", "base", "null"),
            ],
            "share of validation images",
            percent=True,
            note="The exact judge looks on: it decides neither the best step nor the end.",
        ),
        plots.curves("Loss", [line("loss")], "loss", include=[0]),
        plots.curves(
            "Margin of the implicit rewards",
            [line("rewards/margins", "margin u"), *targets],
            "margin",
            reference=0.0,
            note="The loss draws the margin to its target, ΔR." if targets else "",
        ),
        plots.curves(
            "Implicit rewards",
            [
                line("rewards/chosen", "chosen", "chosen"),
                line("rewards/rejected", "rejected", "rejected"),
            ],
            "implicit reward, times β",
            reference=0.0,
        ),
        plots.curves(
            "Implicit accuracy",
            [line("rewards/accuracies", "accuracy")],
            "pairs ordered rightly",
            include=[0.4, 0.6],
            reference=0.5,
            percent=True,
        ),
        plots.curves(
            "Growth of the denoising error",
            [line("error/chosen", "chosen", "chosen"), line("error/rejected", "rejected", "rejected")],
            "error over the reference's",
            reference=0.0,
            percent=True,
            note="The margin may grow while both errors grow: watch the chosen one.",
        ),
        plots.curves(
            "Drift from the reference",
            [line("drift")],
            "mean squared difference",
            include=[0],
        ),
        plots.curves("Gradient norm", [line("grad_norm")], "norm before clipping", include=[0]),
    ]
    return [plot for plot in found if plot is not None]
