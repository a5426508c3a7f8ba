"""The page of an evaluation: numbers and images of both models, and no active content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capo.evaluation.model_images import image_set
from capo.reporting.evaluation_page import render_evaluation
from capo.reporting.examples import read_shown_prompts
from capo.reporting.extremes import Extremes, Scores, biggest, extremes
from capo.reporting.pictures import Gallery
from capo.reporting.results_schema import Results
from parsed_page import ParsedPage
from synthetic_run import Options, make_run

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}")


def gathered(path: Path, options: Options) -> tuple[Results, tuple[Extremes, ...]]:
    recipe, run = make_run(path, options)
    artifacts = {"base": run.artifact("baseline"), "tuned": run.artifact("evaluate")}
    prompts = list(read_shown_prompts(artifacts["base"]).values())
    ids = [prompt.prompt_id for prompt in prompts]
    rewards = [
        Scores(
            reward.name,
            reward.use,
            *(
                image_set(artifact, m).read_scores(reward.name, ids, options.evaluation_samples)
                for m, artifact in artifacts.items()
            ),
        )
        for reward in recipe.rewards
    ]
    galleries = {
        model: Gallery(artifact, f"images/{model}", ids, recipe.generate.shard_prompts)
        for model, artifact in artifacts.items()
    }
    results = Results.model_validate(artifacts["tuned"].read_json("results.json"))
    return results, extremes(prompts, rewards, galleries)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, tuple[Extremes, ...]]:
    small = Options(prompts=2, samples=4, evaluation_prompts=30, evaluation_samples=4, steps=5)
    return gathered(tmp_path_factory.mktemp("runs") / "usual", small)


@pytest.fixture(scope="module")
def page_of_two(evaluated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render_evaluation(*evaluated, {"capo-diffusion": "1"}), encoding="utf-8")
    return path


def test_biggest_by_hand() -> None:
    differences = np.array([0.0, 2.0, -1.0, np.nan, 2.0, -3.0, 1.0])
    assert biggest(differences, 2) == ([1, 4], [5, 2])
    assert biggest(differences, 9) == ([1, 4, 6], [5, 2])
    assert biggest(np.zeros(3), 2) == ([], [])


def test_difference_of_means_leaves_missing_scores_out() -> None:
    base = np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 2.0]])
    tuned = np.array([[3.0, 5.0], [1.0, 1.0], [0.0, np.nan]])
    np.testing.assert_allclose(Scores("r", "train", base, tuned).differences, [3.0, np.nan, -1.5])


def test_wins_and_losses_are_in_order(evaluated: tuple[Results, tuple[Extremes, ...]]) -> None:
    results, by_reward = evaluated
    assert [e.reward for e in by_reward] == [r.name for r in results.rewards]
    for extreme_prompts in by_reward:
        up, down = ([e.difference for e in side] for side in (extreme_prompts.wins, extreme_prompts.losses))
        assert len(up) == 6
        assert up == sorted(up, reverse=True)
        assert down == sorted(down)
        assert min(up) > 0 > max(down)
        for extreme in (*extreme_prompts.wins, *extreme_prompts.losses):
            assert len(extreme.base) == len(extreme.tuned) == 3


def test_page_shows_both_models_and_the_certainty_of_the_numbers(evaluated: Any, page_of_two: Path) -> None:
    results, by_reward = evaluated
    parsed = ParsedPage(page_of_two.read_text(encoding="utf-8"))
    alternatives = [e.attributes["alt"] for e in parsed.all("img")]
    cards = sum(len(e.wins) + len(e.losses) for e in by_reward)
    assert sum(a.startswith("base model, image ") for a in alternatives) == 3 * cards
    assert sum(a.startswith("tuned model, image ") for a in alternatives) == 3 * cards
    assert "tuned is train/best and base is the base model" in parsed.text
    for reward in results.rewards:
        assert f"{100 * reward.same_seed.win_rate:.1f}%" in parsed.text
        assert f"{reward.sign_test.won}, {reward.sign_test.lost}, {reward.sign_test.tied}" in parsed.text
        for category in reward.by_category.values():
            assert f"{100 * category.low:.1f} to {100 * category.high:.1f}%" in parsed.text
    assert "image encoder of heldout" in parsed.text
    assert len(parsed.all("caption")) == len(parsed.all("table"))


def test_hostile_text_is_escaped(tmp_path: Path, page_of_two: Path) -> None:
    options = Options(
        prompts=2, samples=4, evaluation_prompts=3, evaluation_samples=2, steps=5, texts=HOSTILE,
        categories=HOSTILE[:2],
    )  # fmt: skip
    results, by_reward = gathered(tmp_path / "run", options)
    names = results.models.model_copy(update={"base": HOSTILE[0], "tuned": HOSTILE[1]})
    results = results.model_copy(update={"models": names, "warnings": HOSTILE})
    parsed = ParsedPage(render_evaluation(results, by_reward, {}))
    usual = ParsedPage(page_of_two.read_text(encoding="utf-8")).vocabulary
    assert parsed.vocabulary <= usual | {("section", "class"), ("li", ""), ("ul", "")}
    assert f"{HOSTILE[1]} compared with {HOSTILE[0]}" in parsed.text


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_fits_the_screen_and_loads_nothing(browser: Any, page_of_two: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page_of_two.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page_of_two.as_uri()]
    tab.close()
