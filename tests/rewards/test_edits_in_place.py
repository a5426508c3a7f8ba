"""A reward that edits its images changes nothing for other rewards, its own retries, or the score cache."""

import numpy as np
import pytest
from PIL import Image

from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.rewards import load_reward, score_images
from capo.rewards.checking.conformance import check_reward

FUNCTION = RewardSection(name="painter", source="function_rewards:painter")


def paint(images, prompts):
    for image in images:
        image.paste("black", (0, 0, image.width, image.height // 2))


def shrink(images, prompts):
    for image in images:
        image.thumbnail((2, 2))


def replace(images, prompts):
    images[:] = [image.resize((3, 3)) for image in images]


def drop_image(images, prompts):
    images.pop()


def sort_prompts(images, prompts):
    prompts.sort()


class Editor:
    """Scores by brightness before it edits its arguments; raises on the first `failures` calls."""

    name = "editor"
    comparison = BradleyTerry()

    def __init__(self, edit, failures=0):
        self.edit, self.failures = edit, failures

    def score(self, images, prompts):
        scores = [float(np.asarray(i).mean()) + len(p) for i, p in zip(images, prompts, strict=True)]
        self.edit(images, prompts)
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("not now")
        return scores


@pytest.fixture
def gray():
    return [Image.new("RGB", (8, 8), (value,) * 3) for value in (40, 80, 120, 160)]


EDITS = [paint, shrink, replace, drop_image, sort_prompts]
TEXTS = ["d", "ccc", "bb", "a"]


@pytest.mark.parametrize("edit", EDITS)
def test_images_and_prompts_stay_as_they_are(gray, edit):
    before, texts = [image.tobytes() for image in gray], list(TEXTS)
    expected = [41, 83, 122, 161]
    assert [s.score for s in score_images(Editor(edit), gray, texts, 4)] == expected
    assert [image.tobytes() for image in gray] == before
    assert texts == TEXTS


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("edit", EDITS)
def test_a_retry_gets_the_original_images(gray, edit, failures):
    """One failure repeats the batch, a second one goes image by image."""
    scored = score_images(Editor(edit, failures), gray, TEXTS, 4)
    assert [s.score for s in scored] == [41, 83, 122, 161]


def test_a_function_of_a_recipe_cannot_change_what_the_next_reward_sees(gray):
    shipped = load_reward(RewardSection(name="shapes-aesthetic"), "cpu")
    alone = score_images(shipped, gray, TEXTS, 4)
    score_images(load_reward(FUNCTION, "cpu"), gray, TEXTS, 4)
    assert score_images(shipped, gray, TEXTS, 4) == alone


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (paint, "image 1"),
        (shrink, "image 1"),
        (replace, "image 1"),
        (drop_image, "3 entries"),
        (sort_prompts, "prompts"),
    ],
)
def test_the_check_reports_an_edit(gray, edit, problem):
    report = check_reward(Editor(edit), gray, TEXTS)
    problems = {check.what: check.problem for check in report.checks if check.problem}
    assert list(problems) == ["leaves images and prompts unchanged"]
    assert problem in problems["leaves images and prompts unchanged"]


def test_the_check_reports_a_function_that_edits(gray):
    report = check_reward(load_reward(FUNCTION, "cpu"), gray, TEXTS)
    assert "image 1" in {c.what: c.problem for c in report.checks}["leaves images and prompts unchanged"]
