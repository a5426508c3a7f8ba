"""Render the report of a run: one HTML page that runs no scripts and loads nothing."""

import itertools

from capo.recipe import dump_recipe
from capo.reporting import facts, plots
from capo.reporting.benchmark_page import scores
from capo.reporting.examples import ShownPrompt, spread
from capo.reporting.gather import Material
from capo.reporting.loading_code import loading_code, repeat_command
from capo.reporting.plots import Plot
from capo.reporting.templating import environment, outcome
from capo.reporting.training_plots import training_plots

SCATTER_PANELS = 6
SCATTER_PROMPTS = 3


def render(material: Material) -> str:
    """Return the page. Equal material gives equal text, except in elements marked `data-wall-clock`."""
    names, weights = material.pairs.rewards, facts.reward_weights(material)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            m=material,
            versions=material.versions,
            recipe=material.recipe,
            warnings=facts.warnings(material),
            histograms=_histograms(material),
            distributions=[plots.shifted_histogram(name, *both) for name, both in material.evaluated.items()],
            weights=dict(zip(names, weights.tolist(), strict=True)),
            only=names[int(weights.argmax())] if (weights > 0).sum() == 1 else None,
            comparisons={name: facts.comparison(value) for name, value in material.comparisons.items()},
            pair_facts=facts.pair_statistics(material),
            deltas=plots.delta_histogram(material.pairs.delta_rewards),
            scatters=_scatters(material),
            shift_keys=plots.SHIFT_KEYS,
            scatter_keys=plots.SCATTER_KEYS,
            series=plots.SERIES,
            benchmarks=[{"results": found, **scores(found)} for found in material.benchmarks],
            training=training_plots(material),
            settings=facts.settings(material),
            recipe_yaml=dump_recipe(material.recipe),
            loading=loading_code(material),
            repeat=repeat_command(material),
            **outcome(material.results),
        )
    )


def _histograms(material: Material) -> list[tuple[str, Plot, Plot | None]]:
    """Return every reward's histogram of raw scores and, for rewards that made the pairs, of calibrated ones.

    These are the two rows of the paper's Fig. 6.
    """
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


def _scatters(material: Material) -> list[tuple[ShownPrompt, list[Plot]]]:
    """Return a few prompts, each with one panel per combination of two rewards."""
    pairs = material.pairs
    combinations = list(itertools.combinations(range(len(pairs.rewards)), 2))[:SCATTER_PANELS]
    count = min(SCATTER_PROMPTS, SCATTER_PANELS // len(combinations)) if combinations else 0
    prompts = spread([material.prompts[p] for p in pairs.paired], count)
    return [
        (prompt, [plots.reward_scatter(pairs, prompt.prompt_id, *two) for two in combinations])
        for prompt in prompts
    ]
