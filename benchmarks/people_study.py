"""Check the intervals and the power of human studies by simulation, and click a study through a browser.

    python benchmarks/people_study.py coverage [STUDIES]    table of docs/guides/people.md
    python benchmarks/people_study.py world [STUDIES]       studies of the embedded world, against their truth
    python benchmarks/people_study.py browser FOLDER        40 prompts x 6 raters, in Chromium

Writes no files except those of `browser`, which leaves the study and its report in FOLDER.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from capo.engine.seeds import stable_seed
from capo.images.encoding import encode_image
from capo.people import clustered
from capo.people.analysis import analyze
from capo.people.build_study import ModelImages, StudySettings, build_study
from capo.people.clustered import clustered_mean
from capo.people.collect import add_votes
from capo.people.human_study import PAGE, HumanStudy, Key, is_swapped, rater_order, read_key
from capo.people.simulated_votes import CONDUCTS, Conduct, SimulatedRaters
from capo.people.study_power import Votes, power
from capo.people.votes import VoteLine
from capo.people.votes_report import write_votes_report
from capo.prompts import Prompt, make_prompt
from capo.shapes.drawing import draw
from capo.shapes.grammar import Spec, draw_specs, spec_of
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.perception import perceive
from capo.shapes.scenes import Scene
from capo.shapes.simulated_raters import compare_at_random, prefer

DESIGNS = (
    (40, 6, 0.1, Votes(0.65, 0.05)),
    (40, 6, 0.1, Votes(0.55, 0.1)),
    (200, 5, 0.05, Votes(0.65, 0.0)),
    (200, 5, 0.05, Votes(0.65, 0.03)),
    (200, 3, 0.05, Votes(0.5, 0.0)),
)
"""Prompts, raters, the difference from 1/2, and how votes vary."""

PROMPTS, RATERS, TASTE = 40, 6, 0.08
CORRECT = {"base": 0.5, "tuned": 0.65}
"""Share of images that show their prompt."""


def coverage(studies: int) -> None:
    """Print how often intervals contain the truth, and how often the difference is shown."""
    clustered.RESAMPLES = 499
    print("| prompts × raters | win-rate | agree | spread | both | prompts | votes | shown | formula |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number, (prompts, raters, difference, votes) in enumerate(DESIGNS):
        rng = np.random.default_rng(number)
        hits = np.zeros(4)
        for seed in range(studies):
            values, at_prompt, at_rater = simulated(rng, prompts, raters, difference, votes)
            strangers = np.arange(len(values))
            rate = 0.5 + difference
            for place, clusters in enumerate(
                ((at_prompt, at_rater), (at_prompt, strangers), (strangers, strangers))
            ):
                mean = clustered_mean(values, *clusters, seed=seed)
                hits[place] += mean.low <= rate <= mean.high
                hits[3] += place == 0 and mean.p < 0.05
        both, by_prompt, single, shown = (f"{100 * share:.1f}%" for share in hits / studies)
        expected = power(prompts, raters, difference, votes)
        print(
            f"| {prompts} × {raters} | {100 * rate:.0f}% | {100 * votes.agreement:.0f}% | "
            f"{100 * votes.spread:.0f} | {both} | {by_prompt} | {single} | {shown} | {100 * expected:.1f}% |",
            flush=True,
        )


def simulated(
    rng: np.random.Generator, prompts: int, raters: int, difference: float, votes: Votes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return votes, prompts and raters [V]: the components of `votes` move chances up or down."""
    by_prompt, by_rater, _ = votes.components(difference)
    chances = 0.5 + difference + rng.choice([-1, 1], (prompts, 1)) * by_prompt**0.5
    chosen = rng.random((prompts, raters)) < chances + rng.choice([-1, 1], raters) * by_rater**0.5
    at_prompt, at_rater = np.indices(chosen.shape).reshape(2, -1)
    return chosen.ravel().astype(float), at_prompt, at_rater


class People:
    """The embedded world's people, who look at every image once."""

    def __init__(self) -> None:
        self._scenes: dict[bytes, Scene] = {}

    def can_compare(self, prompt: Prompt) -> bool:
        return "include" in prompt.metadata

    def scene(self, image: Image.Image) -> Scene:
        data = image.tobytes()
        if data not in self._scenes:
            self._scenes[data] = perceive(np.asarray(image))
        return self._scenes[data]

    def compare(
        self, images: Sequence[Image.Image], prompt: Prompt, rng: random.Random
    ) -> list[tuple[int, int, float]]:
        return compare_at_random([self.scene(image) for image in images], spec_of(prompt.metadata), rng)


class World:
    """Prompts of the embedded world with an image of two models each, and what people think of them."""

    def __init__(self, prompts: int) -> None:
        specs = draw_specs("test", prompts, seed=0)
        self.prompts = {s.text: make_prompt(s.text, s.category, s.metadata) for s in specs}
        self.people = People()
        self.images = {
            model: dict(zip(self.prompts, _images(specs, model), strict=True)) for model in CORRECT
        }
        self.rate = float(np.mean([self._share(spec) for spec in specs]))

    def _share(self, spec: Spec, votes: int = 400) -> float:
        """Return the share of votes for the tuned image of a prompt, ties counting half."""
        rng = random.Random(stable_seed("truth", spec.text))
        scenes = [self.people.scene(self.images[model][spec.text]) for model in ("tuned", "base")]
        return sum(prefer(scenes, spec, rng) for _ in range(votes)) / votes

    def study(self, to: Path, texts: Sequence[str], **settings: Any) -> tuple[HumanStudy, Key]:
        def images(model: str) -> ModelImages:
            return ModelImages(
                model, model, lambda prompt: encode_image(self.images[model][prompt.text], "png")
            )

        models = {model: images(model) for model in ("base", "tuned")}
        chosen = [self.prompts[text] for text in texts]
        study = build_study(to, chosen, models, StudySettings(raters=RATERS, **settings))
        return study, read_key(to, study)


def _images(specs: Sequence[Spec], model: str) -> list[Image.Image]:
    scenes = []
    for spec in specs:
        rng = random.Random(stable_seed("image", model, spec.text))
        scenes.append(scene_of(spec if rng.random() < CORRECT[model] else corrupt(spec, rng), rng))
    return [Image.fromarray(each) for each in draw(scenes).permute(0, 2, 3, 1).numpy()]


def world(studies: int) -> None:
    """Print how often the report's interval contains the win-rate of all prompts and all raters."""
    population = World(600)
    tastes = np.random.default_rng(0).normal(0, TASTE, 4000)
    truth = float(np.mean((1 - abs(tastes)) * population.rate + np.maximum(tastes, 0)))
    covered = shown = lazy = careful = 0
    estimates = []
    rng = np.random.default_rng(1)
    for number in range(studies):
        with tempfile.TemporaryDirectory() as folder:
            texts = rng.choice(list(population.prompts), PROMPTS, replace=False).tolist()
            place = Path(folder, "study")
            study, key = population.study(place, texts, seed=number)
            raters = SimulatedRaters(place, study, key, population.people, population.prompts)
            conducts = [Conduct(taste=float(rng.choice(tastes))) for _ in range(RATERS)]
            ballots = [raters.ballot(f"r{n}", each) for n, each in enumerate(conducts)]
            ballots.append(raters.ballot("lazy", CONDUCTS["lazy"]))
            results = analyze(study, key, [line for ballot in ballots for line in _lines(ballot)])
        rate = results["comparisons"][0]["win_rate"]
        covered += rate["low"] <= truth <= rate["high"]
        shown += rate["p"] < 0.05
        aside = {rater["rater"] for rater in results["raters"] if rater["set_aside"]}
        lazy += "lazy" in aside
        careful += len(aside - {"lazy"})
        estimates.append((rate["value"], rate["high"] - rate["low"]))
    mean, width = np.mean(estimates, axis=0)
    print(f"{studies} studies of {PROMPTS} prompts x {RATERS} raters, and a lazy one")
    print(f"truth {100 * truth:.1f}%, mean of the estimates {100 * mean:.1f}%")
    inside = f"{100 * covered / studies:.1f}%"
    print(f"intervals that contain the truth {inside}, mean width {100 * width:.1f} points")
    print(f"studies with p < 0.05: {100 * shown / studies:.1f}%")
    print(f"lazy raters set aside {lazy} of {studies}, others {careful} of {studies * RATERS}")


def _lines(ballot: dict[str, Any]) -> list[VoteLine]:
    about = {"study": ballot["study"], "rater": ballot["rater"]}
    return [VoteLine.model_validate(vote | about) for vote in ballot["votes"]]


def browser(folder: Path) -> None:
    """Click a study of 40 prompts through, as four careful raters, a sided one and a lazy one."""
    from playwright.sync_api import sync_playwright

    population = World(PROMPTS)
    study, key = population.study(folder, list(population.prompts), title="40 prompts, 6 raters")
    raters = SimulatedRaters(folder, study, key, population.people, population.prompts)
    kinds = ["careful", "careful", "noisy", "biased", "sided", "lazy"]
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as downloads:
        chromium = driver.chromium.launch(executable_path="/usr/bin/chromium")
        files = []
        for number, kind in enumerate(kinds):
            phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
            desktop = {"viewport": {"width": 1280, "height": 800}}
            context = chromium.new_context(reduced_motion="reduce", **(phone if number % 2 else desktop))
            tab = context.new_page()
            rater = f"{kind}-{number}"
            tab.goto(f"{(folder / PAGE / 'index.html').absolute().as_uri()}#rater={rater}")
            tab.click("#start")
            expected = {}
            for step, pair in enumerate(rater_order(study, rater), 1):
                choice, ms = raters.answer(rater, CONDUCTS[kind], pair, study.questions[0].name)
                tab.wait_for_function(
                    "n => document.getElementById('number').textContent.startsWith(`${n} of`)"
                    " && !document.querySelector('#images.waiting')",
                    arg=step,
                )
                if kind != "lazy":
                    tab.wait_for_timeout(ms / 4)  # four times as fast as people
                tab.click(f"#{choice}")
                expected[pair.pair] = (choice, is_swapped(study, rater, pair))
            with tab.expect_download() as download:
                tab.click("#save")
            file = Path(downloads, download.value.suggested_filename)
            download.value.save_as(file)
            files.append(file)
            context.close()
        print(*add_votes(folder, files), sep="\n")
    results = write_votes_report(folder)
    rate = results["comparisons"][0]["win_rate"]
    print(f"win-rate {100 * rate['value']:.1f}% ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})")
    print(f"what people think of these prompts: {100 * population.rate:.1f}%")
    print(*(f"{r['rater']}: {r['set_aside']}" for r in results["raters"] if r["set_aside"]), sep="\n")
    print(folder / "report" / "index.html")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or [""]
    if what == "coverage":
        coverage(int(rest[0]) if rest else 1000)
    elif what == "world":
        world(int(rest[0]) if rest else 300)
    elif what == "browser" and rest:
        browser(Path(rest[0]))
    else:
        sys.exit(__doc__)
