import json
import math
import time

import numpy as np
import pytest
import torch

import tiny_run
from capo.method import BradleyTerry, PowerRatio, select_frontier
from capo.pairing import pair_table, selecting
from capo.pairing.pair import pair
from capo.pairing.selecting import SelectionRule, make_pairs
from capo.recipe import RewardSection
from capo.rewards import RewardError
from capo.store import Run, WorkspaceError
from capo.store.step import Job

BT = {"name": "bt", "source": "function_rewards:contrast", "temperature": 2.0, "weight": 3.0}
RATIO = {"name": "ratio", "source": "function_rewards:redness", "weight": 1.0}
HELD_OUT = {"name": "held", "source": "function_rewards:undeclared", "use": "evaluate"}


def frontier_rule(rewards):
    return SelectionRule(select_frontier, torch.ones(rewards))


def make(path, rewards, scores, **pairs):
    """Run the stage on scores [P, N] by reward; return rows, schema metadata and summary."""
    recipe = tiny_run.recipe(rewards, pairs={"max_skipped": 0.5} | pairs)
    count = len(next(iter(scores.values())))
    prompts = tiny_run.prompts(count)
    with Run.open(path) as run:
        tiny_run.fill(run, recipe, prompts)
        for section in map(RewardSection.model_validate, rewards):
            if section.name in scores:
                tiny_run.put_scores(run, section, prompts, scores[section.name])
        artifact = run.artifact("pairs")
        artifact.begin({})
        pair(Job(recipe, run, (artifact,)))
        table = artifact.read_table("pairs.parquet")
        assert table["prompt_id"].to_pylist() == [p.prompt_id for p in prompts]
        return table.to_pylist(), table.schema, artifact.summary


def gappy_scores(prompts=12):
    """Two rewards of 4 samples; some missing in one, the other or both; prompts with 0 to 4 left."""
    rng = np.random.default_rng(3)
    scores = {"bt": rng.normal(20, 2, (prompts, 4)), "ratio": rng.uniform(0, 1, (prompts, 4))}
    for p, n in ((0, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 3)):
        scores["bt"][p, n] = np.nan
    for p, n in ((3, 3), (3, 0), (4, 2), (5, 0), (5, 1), (5, 2), (5, 3)):
        scores["ratio"][p, n] = np.nan
    scores["ratio"][6] = 0.0  # all tie by one reward
    scores["bt"][7], scores["ratio"][7] = 1.0, 0.5  # all the same
    scores["bt"][8], scores["ratio"][8] = [1, 2, 3, 4], [0.4, 0.3, 0.2, 0.1]  # no sample is better by both
    return scores


def naive(scores, weights=(3.0, 1.0)):
    """Calibration and frontiers of one prompt by plain loops, from the equations."""
    kept = [n for n in range(4) if not any(math.isnan(s[n]) for s in scores)]
    if len(kept) < 2:
        return {}, {}, [], []
    wins = (
        lambda a, b: 1 / (1 + math.exp(-(a - b) / 2.0)),
        lambda a, b: 0.5 if a == b else a / (a + b),
    )
    calibrated = {
        n: [
            sum(win(s[n], s[m]) for m in kept if m != n) / (len(kept) - 1)
            for win, s in zip(wins, scores, strict=True)
        ]
        for n in kept
    }
    combined = {
        n: sum(w * r for w, r in zip(weights, calibrated[n], strict=True)) / sum(weights) for n in kept
    }

    def dominates(a, b):
        pairs = [(s[a], s[b]) for s in scores]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    upper = [n for n in kept if not any(dominates(m, n) for m in kept)]
    lower = [n for n in kept if not any(dominates(n, m) for m in kept)]
    chosen = [n for n in upper if n not in lower]
    return calibrated, combined, chosen, lower if chosen else []


def test_pairs_agree_with_plain_loops(tmp_path):
    scores = gappy_scores()
    rows, _, summary = make(tmp_path, [BT, RATIO, HELD_OUT], scores)
    counts = dict.fromkeys(("pairs", "no_pair", "dropped", "set_aside"), 0)
    differences, sizes, values = [], [], []
    for p, row in enumerate(rows):
        columns = [scores["bt"][p], scores["ratio"][p]]
        calibrated, combined, chosen, rejected = naive(columns)
        assert row["chosen"] == chosen
        assert row["rejected"] == rejected
        for n in range(4):
            if n in calibrated:
                assert row["calibrated"][n] == pytest.approx(calibrated[n], abs=1e-12)
                assert row["combined"][n] == pytest.approx(combined[n], abs=1e-12)
                values.append(calibrated[n])
            else:
                assert row["calibrated"][n] is None
                assert row["combined"][n] is None
        counts["set_aside"] += int(np.isnan(columns).any(axis=0).sum())
        counts["pairs"] += bool(chosen)
        counts["dropped"] += not calibrated
        counts["no_pair"] += bool(calibrated) and not chosen
        differences += [combined[a] - combined[b] for a in chosen for b in rejected]
        if chosen:
            sizes.append((len(chosen), len(rejected)))
    assert {name: summary[name] for name in counts} == counts
    assert counts == {"pairs": 7, "no_pair": 3, "dropped": 2, "set_aside": 13}
    assert summary["prompts"] == 12
    assert [summary["mean_chosen"], summary["mean_rejected"]] == pytest.approx(np.mean(sizes, axis=0))
    assert summary["mean_delta_reward"] == pytest.approx(np.mean(differences))
    assert summary["share_not_better"] == pytest.approx(np.mean(np.array(differences) <= 0))
    spread = np.std(values, axis=0)
    assert summary["calibrated_std"] == pytest.approx({"bt": spread[0], "ratio": spread[1]})


def test_the_file_records_its_settings(tmp_path):
    _, schema, _ = make(tmp_path, [BT, RATIO], gappy_scores())
    assert json.loads(schema.metadata[b"rewards"]) == ["bt", "ratio"]
    assert json.loads(schema.metadata[b"comparisons"]) == {
        "bt": {"comparison": "bradley-terry", "temperature": 2.0},
        "ratio": {"comparison": "power-ratio", "exponent": 1.0},
    }
    types = {field.name: str(field.type).replace("element: ", "").replace("item: ", "") for field in schema}
    assert types == {
        "prompt_id": "string",
        "chosen": "list<int32>",
        "rejected": "list<int32>",
        "calibrated": "list<list<double>>",
        "combined": "list<double>",
    }


def test_pairing_some_prompts_at_a_time_changes_nothing(tmp_path, monkeypatch):
    scores = gappy_scores()
    whole = make(tmp_path / "whole", [BT, RATIO], scores)
    monkeypatch.setattr(selecting, "PROMPTS_AT_ONCE", 5)
    monkeypatch.setattr(pair_table, "CHOSEN_AT_ONCE", 3)
    assert make(tmp_path / "parts", [BT, RATIO], scores) == whole


def test_calibrated_rewards_average_one_half(tmp_path):
    rows, _, _ = make(tmp_path, [BT, RATIO], gappy_scores())
    for row in rows:
        left = [values for values in row["calibrated"] if values is not None]
        if left:
            assert np.mean(left, axis=0) == pytest.approx([0.5, 0.5])


def test_sum_takes_best_and_worst_of_the_weighted_mean(tmp_path):
    scores = gappy_scores()
    rows, _, _ = make(tmp_path, [BT, RATIO], scores, selection="sum")
    for p, row in enumerate(rows):
        _, combined, _, _ = naive([scores["bt"][p], scores["ratio"][p]])
        if len({round(v, 12) for v in combined.values()}) < 2:
            assert row["chosen"] == row["rejected"] == []
        else:
            assert row["chosen"] == [max(combined, key=combined.get)]
            assert row["rejected"] == [min(combined, key=combined.get)]


def test_best_worst_uses_one_reward(tmp_path):
    scores = gappy_scores()
    rows, _, _ = make(tmp_path, [BT, RATIO], scores, selection="best-worst", reward="ratio")
    for p, row in enumerate(rows):
        calibrated, _, _, _ = naive([scores["bt"][p], scores["ratio"][p]])
        ratio = {n: values[1] for n, values in calibrated.items()}
        assert [row["combined"][n] for n in ratio] == pytest.approx(list(ratio.values()))
        if len({round(v, 12) for v in ratio.values()}) > 1:
            assert row["chosen"] == [max(ratio, key=ratio.get)]
            assert row["rejected"] == [min(ratio, key=ratio.get)]


def test_underweighted_rewards_are_a_warning(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    rng = np.random.default_rng(0)
    scores = {"bt": rng.normal(0, 20, (9, 4)), "ratio": rng.uniform(0.49, 0.51, (9, 4))}
    make(tmp_path / "a", [BT, RATIO], scores)
    warning = capsys.readouterr().err
    assert "ratio is underweighted" in warning
    assert f"capo calibration --run {tmp_path / 'a'}" in warning
    make(tmp_path / "b", [BT, RATIO], scores, selection="best-worst", reward="bt")  # only one counts
    scores["ratio"] = rng.uniform(0, 1, (9, 4))
    make(tmp_path / "c", [BT, RATIO], scores)
    assert "underweighted" not in capsys.readouterr().err


def test_the_sets_do_not_depend_on_the_order_of_rewards(tmp_path):
    scores = gappy_scores()
    one, _, _ = make(tmp_path / "one", [BT, RATIO], scores)
    other, _, _ = make(tmp_path / "other", [RATIO, BT], scores)
    for a, b in zip(one, other, strict=True):
        assert (a["chosen"], a["rejected"]) == (b["chosen"], b["rejected"])
        assert [v and v[::-1] for v in a["calibrated"]] == b["calibrated"]


def test_shards_in_any_order_are_aligned(tmp_path):
    """Rows are matched by prompt and sample, not by position."""
    import pyarrow as pa

    scores = gappy_scores()
    expected, _, _ = make(tmp_path / "expected", [BT, RATIO], scores)
    recipe = tiny_run.recipe([BT, RATIO], pairs={"max_skipped": 0.5})
    prompts = tiny_run.prompts(12)
    with Run.open(tmp_path / "shuffled") as run:
        tiny_run.fill(run, recipe, prompts)
        for section in recipe.rewards:
            tiny_run.put_scores(run, section, prompts, scores[section.name])
            artifact = run.artifact(f"scores/{section.name}")
            table = pa.concat_tables([artifact.read_table(name) for name in artifact.files()])
            order = np.random.default_rng(len(section.name)).permutation(len(table))
            artifact.begin({"again": 1}, force=True)
            artifact.write_table("shard-00000.parquet", table.take(pa.array(order)))
            artifact.commit()
        pairs = run.artifact("pairs")
        pairs.begin({})
        pair(Job(recipe, run, (pairs,)))
        assert pairs.read_table("pairs.parquet").to_pylist() == expected


@pytest.mark.parametrize("change", ["lost", "twice", "foreign"])
def test_scores_of_other_samples_are_rejected(tmp_path, change):
    scores = {"bt": np.random.default_rng(0).normal(size=(4, 4))}
    recipe = tiny_run.recipe([BT])
    prompts = tiny_run.prompts(4)
    with Run.open(tmp_path) as run:
        tiny_run.fill(run, recipe, prompts)
        scored = {"lost": prompts[:3], "twice": [*prompts[:3], prompts[0]]}.get(
            change, tiny_run.prompts(5)[1:]
        )
        tiny_run.put_scores(run, recipe.rewards[0], scored, scores["bt"][: len(scored)])
        pairs = run.artifact("pairs")
        pairs.begin({})
        with pytest.raises(WorkspaceError, match="16 samples of 4 prompts"):
            pair(Job(recipe, run, (pairs,)))


def test_too_many_missing_scores_are_rejected(tmp_path):
    scores = gappy_scores()
    with pytest.raises(RewardError, match=r"'bt' gave no score for 7 of 48 samples(.|\n)*sample 0: lost"):
        make(tmp_path, [BT, RATIO], scores, max_skipped=0.1)


def test_a_reward_may_be_named_labels(tmp_path):
    scores = np.full((3, 4), np.nan)
    scores[0] = 1.0
    with pytest.raises(RewardError, match="reward 'labels' gave no score for 8 of 12"):
        make(tmp_path, [BT | {"name": "labels"}], {"labels": scores}, max_skipped=0.1)


def test_negative_scores_of_a_power_ratio_are_rejected(tmp_path):
    scores = {"ratio": np.full((4, 4), 0.5)}
    scores["ratio"][2, 3] = -0.25
    prompt = tiny_run.prompts(4)[2].prompt_id
    with pytest.raises(RewardError, match=f"'ratio': score -0.25 of prompt {prompt}, sample 3 is negative"):
        make(tmp_path, [RATIO], scores)


def test_no_pair_at_all_is_an_error(tmp_path):
    with pytest.raises(RewardError, match=r"no prompt has a pair.*frontier.*ratio"):
        make(tmp_path, [RATIO], {"ratio": np.full((4, 4), 0.5)})


def test_one_reward_two_samples():
    """N = 2 gives sigmoid(Δ) and 1 − sigmoid(Δ)."""
    pairs = make_pairs(np.array([[[3.0], [1.0]]]), [BradleyTerry()], frontier_rule(1))
    wins = 1 / (1 + math.exp(-2.0))
    assert pairs.calibrated[0, :, 0] == pytest.approx([wins, 1 - wins])
    assert pairs.chosen.tolist() == [[True, False]]
    assert pairs.rejected.tolist() == [[False, True]]


def test_samples_in_another_order_keep_their_values():
    scores = np.random.default_rng(0).uniform(size=(5, 6, 2))
    scores[1, 2, 0] = scores[2, 3, 1] = np.nan
    comparisons = [PowerRatio(), BradleyTerry(0.2)]
    one = make_pairs(scores, comparisons, frontier_rule(2))
    order = [3, 5, 0, 1, 4, 2]
    other = make_pairs(scores[:, order], comparisons, frontier_rule(2))
    np.testing.assert_array_equal(one.calibrated[:, order], other.calibrated)
    np.testing.assert_array_equal(one.chosen[:, order], other.chosen)
    np.testing.assert_array_equal(one.rejected[:, order], other.rejected)


def test_twenty_thousand_prompts_take_seconds():
    scores = np.random.default_rng(0).uniform(size=(20_000, 16, 3))
    scores[::50, 3, 1] = np.nan
    started = time.process_time()
    pairs = make_pairs(scores, [BradleyTerry(), PowerRatio(), BradleyTerry()], frontier_rule(3))
    assert time.process_time() - started < 10
    sizes = pairs.chosen.sum(axis=1).mean(), pairs.rejected.sum(axis=1).mean()
    # The expected size of either frontier of 16 independent samples by 3 rewards, and less on the
    # chosen side by those on both: Σ_i H_i / i for i = 1..16 is 6.5.
    frontier = sum(sum(1 / j for j in range(1, i + 1)) / i for i in range(1, 17))
    assert sizes[1] == pytest.approx(frontier, abs=0.2)
    assert sizes[0] < sizes[1]
