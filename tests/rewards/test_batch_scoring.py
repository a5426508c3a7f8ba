import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capo import rewards
from capo.rewards import RewardError, Scored, score_images
from capo.rewards.batch_scoring import float64

SOURCES = sorted(Path(rewards.__file__).parent.rglob("*.py"))

IMAGES = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in range(6)]
PROMPTS = [f"prompt {i % 3}" for i in range(6)]


class Reward:
    """Passes the images' red values through `answer` and records the calls."""

    name = "toy"
    comparison = None

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def score(self, images, prompts):
        assert len(images) == len(prompts)
        values = [image.getpixel((0, 0))[0] for image in images]
        self.calls.append(values)
        return self.answer(values)


def scored(answer, batch_size=4):
    return score_images(Reward(answer), IMAGES, PROMPTS, batch_size)


def test_batches_in_order():
    reward = Reward(lambda values: np.array(values) / 2)
    assert score_images(reward, IMAGES, PROMPTS, 4) == [Scored(i / 2) for i in range(6)]
    assert reward.calls == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        lambda v: np.array(v, dtype=np.float16),
        lambda v: torch.tensor(v, dtype=torch.bfloat16, requires_grad=False),
        lambda v: torch.tensor([float(x) for x in v], requires_grad=True),
        lambda v: [np.float32(x) for x in v],
        lambda v: [torch.tensor(x, dtype=torch.bfloat16, requires_grad=True) for x in v],
        lambda v: np.ma.array(v),
    ],
)
def test_accepts_any_numeric_type(convert):
    assert scored(convert) == [Scored(float(i)) for i in range(6)]
    assert all(type(s.score) is float for s in scored(convert))


@pytest.mark.parametrize(
    ("bad", "reason"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf"), (None, "nan")]
)
def test_non_finite_scores_are_missing(bad, reason):
    results = scored(lambda values: [bad if v == 2 else v for v in values])
    assert results[2] == Scored(None, f"the score is {reason}")
    assert [r.score for r in results if r.score is not None] == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("convert", [lambda masked: masked, list], ids=["array", "list"])
def test_masked_scores_are_missing(convert):
    results = scored(lambda values: convert(np.ma.array(values, mask=[v == 2 for v in values])))
    assert results[2] == Scored(None, "the score is nan")
    assert [r.score for r in results if r.score is not None] == [0, 1, 3, 4, 5]


def test_float16_overflow_is_missing():
    with np.errstate(over="ignore"):
        results = scored(lambda values: np.array([1e6 if v == 1 else v for v in values]).astype(np.float16))
    assert results[1] == Scored(None, "the score is inf")


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda v: v[:-1], r"got shape \(3,\)"),
        (lambda v: [*v, 1], r"got shape \(5,\)"),
        (lambda v: np.array(v)[:, None], r"got shape \(4, 1\)"),
        (lambda v: 1.0, r"got shape \(\)"),
        (lambda v: [str(x) for x in v], "got values of type <U1"),
        (lambda v: ["x", None, 1, 2], "got list: could not convert string"),
        (lambda v: np.array(v) * 1j, "got values of type complex128"),
        (lambda v: [torch.ones(1) for _ in v], r"got shape \(4, 1\)"),
        (lambda v: None, r"got shape \(\)"),
        (lambda v: [[1], [1, 2], [3], [4]], "got list: setting an array element"),
    ],
)
def test_anything_but_n_numbers_is_an_error(answer, got):
    with pytest.raises(ValueError, match=f"reward 'toy' must return 4 numbers for 4 images, {got}"):
        scored(answer)


def test_a_temporary_failure_is_retried():
    failures = iter([True])

    def answer(values):
        if next(failures, False):
            raise ConnectionError("try again")
        return values

    reward = Reward(answer)
    assert score_images(reward, IMAGES, PROMPTS, 6) == [Scored(float(i)) for i in range(6)]
    assert len(reward.calls) == 2


def test_one_bad_image_costs_no_other_its_score():
    def answer(values):
        if 3 in values:
            raise ZeroDivisionError("no shapes")
        return values

    results = scored(answer)
    assert results[3] == Scored(None, "ZeroDivisionError: no shapes")
    assert [r.score for r in results] == [0, 1, 2, None, 4, 5]


def test_every_image_failing_stops_with_the_first_cause():
    def answer(values):
        raise RuntimeError(f"cannot score {values}")

    with pytest.raises(RewardError, match=r"'toy' failed on every image.*cannot score \[0\]") as raised:
        scored(answer)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_one_prompt_may_fail_on_all_its_images():
    def answer(values):
        raise RuntimeError("prompt too long")

    results = score_images(Reward(answer), IMAGES[:3], ["the same"] * 3, 2)
    assert results == [Scored(None, "RuntimeError: prompt too long")] * 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_names_the_setting(error):
    def answer(values):
        raise error

    with pytest.raises(RewardError, match="out of memory with 4 images at once; lower batch_size"):
        scored(answer)


def test_interrupts_are_not_caught():
    def answer(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(answer)


def test_float64_converts_on_the_cpu():
    """Apple's GPUs have no float64: `.double()` before `.cpu()` raises there."""

    class DeviceTensor:
        def detach(self):
            return self

        def cpu(self):
            return torch.tensor([0.1], dtype=torch.float32)

    assert float64(DeviceTensor()) == np.float64(np.float32(0.1))
    for path in SOURCES:
        assert not re.search(r"\.double\(\).*\.cpu\(\)", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("count", [1, 4])
def test_truncated_must_cover_every_prompt(count):
    reward = Reward(list)
    reward.truncated = lambda prompts: [True] * count
    with pytest.raises(RewardError, match=f"'toy': `truncated` .* {count} values for 3 prompts"):
        score_images(reward, IMAGES, PROMPTS, 4)


def test_images_and_prompts_must_match_in_number():
    with pytest.raises(ValueError, match="6 images with 5 prompts"):
        score_images(Reward(list), IMAGES, PROMPTS[:5], 2)


def test_nothing_to_score():
    assert score_images(Reward(list), [], [], 2) == []
