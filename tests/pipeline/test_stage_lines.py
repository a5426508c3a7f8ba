import pytest

from capo.engine.events import StageResult
from capo.pipeline.stage_lines import stage_line


def line(name, **summary):
    return stage_line(StageResult(name, False, 1.25, summary))


def test_a_stage_says_what_it_made():
    assert line("prompts", prompts=1200, duplicates=3) == "prompts: 1,200 prompts, 3 duplicates, 1.2 s"
    assert line("scores/red", scored=8, missing=0, mean=0.5) == "scores/red: 8 scores, mean 0.5, 1.2 s"
    pairs = {"prompts": 9, "pairs": 7, "no_pair": 2, "dropped": 0, "mean_delta_reward": 0.3125}
    assert line("pairs", **pairs) == "pairs: 7 prompts with pairs, 2 without, mean ΔR 0.312, 1.2 s"
    trained = line("train", steps=300, best_step=200, best_win_rate=0.625)
    assert trained == "train: 300 steps, best at step 200, win-rate over the base 62.5%, 1.2 s"
    assert line("train", steps=300, best_step=300, best_win_rate=None).endswith("at step 300, 1.2 s")


def test_one_of_a_kind_is_singular():
    assert line("prompts", prompts=2, duplicates=1) == "prompts: 2 prompts, 1 duplicate, 1.2 s"
    assert line("pairs", pairs=1).startswith("pairs: 1 prompt with pairs,")


@pytest.mark.parametrize(("rate", "beaten"), [(0.49, False), (0.5, False), (0.51, True)])
def test_a_best_step_that_does_not_beat_the_base_is_called_out(rate, beaten):
    assert ("no step beat the base" not in line("train", best_step=8, best_win_rate=rate)) == beaten


def test_a_stage_without_a_line_of_its_own_has_its_time():
    assert line("pool", round=2) == "pool: 1.2 s"
