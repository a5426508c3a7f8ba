import weakref

import numpy as np
import pytest

import tiny_rewards
import tiny_run
from capo.engine.local_executor import LocalExecutor
from capo.prompts import make_prompt
from capo.recipe import RewardSection
from capo.rewards import RewardError
from capo.rewards.protocol import TransientError
from capo.scoring import decoded_images, rater
from capo.scoring.score import make_scores
from capo.scoring.score_table import read_scores
from capo.store import Run
from capo.store.step import Job
from function_rewards import gappy, redness

REDNESS = {"name": "red", "source": "function_rewards:redness"}
CONTRAST = {"name": "contrast", "source": "function_rewards:contrast"}
GAPPY = {"name": "gaps", "source": "function_rewards:gappy", "batch_size": 3}
BROKEN = {"name": "broken", "source": "function_rewards:broken"}


@pytest.fixture
def world(tmp_path):
    """An open run with 5 prompts of 4 samples in 3 shards, and the pixels of every sample."""
    prompts = tiny_run.prompts(5)
    recipe = tiny_run.recipe([REDNESS])
    with Run.open(tmp_path / "run") as run:
        yield run, recipe, prompts, tiny_run.fill(run, recipe, prompts)


def score(recipe, run, work):
    """Run the stage for begun artifacts with their rewards; return the seconds per artifact."""
    rewards = tuple(reward for _, reward in work)
    # Not validated: a recipe needs a training reward, a test of a held-out one does not.
    job = Job(recipe.model_copy(update={"rewards": rewards}), run, tuple(artifact for artifact, _ in work))
    make_scores(job)
    return list(job.seconds.values())


def make(run, recipe, **section):
    reward = RewardSection(**section)
    artifact = run.artifact(f"scores/{reward.name}")
    artifact.begin({})
    score(recipe, run, [(artifact, reward)])
    return artifact


def contents(artifact):
    return {name: artifact.read_bytes(name) for name in artifact.files()}


def test_scores_every_sample_shard_by_shard(world):
    run, recipe, prompts, pixels = world
    artifact = make(run, recipe, **REDNESS)
    assert artifact.done
    assert artifact.files() == ["shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]
    rows = read_scores(artifact).to_pylist()
    assert [(r["prompt_id"], r["sample"]) for r in rows] == [
        (p.prompt_id, n) for p in prompts for n in range(4)
    ]
    for row in rows:
        expected = pixels[row["prompt_id"], row["sample"]][..., 0].mean() / 255
        assert row["score"] == pytest.approx(expected)
        assert row["error"] is None


def test_summary(world):
    run, recipe, _, pixels = world
    expected = [image[..., 0].mean() / 255 for image in pixels.values()]
    summary = make(run, recipe, **REDNESS).summary
    assert summary["scored"] == 20
    assert summary["missing"] == 0
    assert summary["mean"] == pytest.approx(np.mean(expected))
    assert summary["std"] == pytest.approx(np.std(expected))
    assert summary["comparison"] == {"comparison": "power-ratio", "exponent": 1.0}


def test_prompts_reach_the_reward(world):
    run, recipe, prompts, pixels = world
    texts = {p.prompt_id: p.text for p in prompts}
    artifact = make(run, recipe, name="c", source="function_rewards:contrast")
    for row in read_scores(artifact).to_pylist():
        image = pixels[row["prompt_id"], row["sample"]]
        assert row["score"] == pytest.approx(image.std() + len(texts[row["prompt_id"]]))


def test_resumes_with_the_missing_shards(world, monkeypatch):
    run, recipe, _, _ = world
    whole = contents(make(run, recipe, **REDNESS))

    calls = []

    def interrupted(images, prompts):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return redness(images, prompts)

    artifact = run.artifact("scores/red")
    artifact.begin({"other": 1}, force=True)
    monkeypatch.setattr("function_rewards.redness", interrupted)
    interrupted.comparison = redness.comparison
    with pytest.raises(KeyboardInterrupt):
        score(recipe, run, [(artifact, RewardSection(**REDNESS))])
    assert artifact.files() == ["shard-00000.parquet"]
    assert not artifact.done
    score(recipe, run, [(artifact, RewardSection(**REDNESS))])
    assert calls == [8, 8, 8, 4]  # the first shard is not scored again
    assert contents(artifact) == whole


def test_no_model_is_loaded_if_all_shards_exist(world, monkeypatch):
    run, recipe, _, _ = world
    whole = contents(make(run, recipe, **REDNESS))
    monkeypatch.setattr(rater, "load_reward", None)
    assert contents(make(run, recipe, **REDNESS)) == whole


def work(run, *sections):
    """Begin the artifacts; return them with their rewards."""
    rewards = [RewardSection(**section) for section in sections]
    artifacts = [run.artifact(f"scores/{reward.name}") for reward in rewards]
    for artifact in artifacts:
        artifact.begin({})
    return list(zip(artifacts, rewards, strict=True))


def test_an_image_is_decoded_once_for_all_rewards(world, monkeypatch):
    run, recipe, _, _ = world
    alone = [contents(make(run, recipe, **section)) for section in (REDNESS, CONTRAST)]
    decoded = []
    real = decoded_images.decode_image
    monkeypatch.setattr(
        decoded_images, "decode_image", lambda data: decoded.append(bytes(data)) or real(data)
    )
    together = work(run, REDNESS | {"name": "a"}, CONTRAST | {"name": "b"}, REDNESS | {"name": "c"})
    seconds = score(recipe, run, together)
    assert len(decoded) == len(set(decoded)) == 20
    assert [contents(artifact) for artifact, _ in together] == [*alone, alone[0]]
    assert len(seconds) == 3
    assert all(each > 0 for each in seconds)


def test_only_an_added_reward_is_scored(world, monkeypatch):
    run, recipe, _, _ = world
    make(run, recipe, **REDNESS)
    monkeypatch.delattr("function_rewards.redness")
    artifact = make(run, recipe, **CONTRAST)
    assert artifact.done
    assert run.artifact("scores/red").done


def test_resumes_several_rewards_after_one_was_interrupted(world):
    """Existing shards of one reward are only counted; missing shards of the other are made."""
    run, recipe, _, _ = world
    whole = [contents(make(run, recipe, **section)) for section in (REDNESS, CONTRAST)]
    pairs = work(run, REDNESS, CONTRAST)
    pairs[0][0].remove("shard-00001.parquet")
    pairs[1][0].remove("shard-00002.parquet")
    score(recipe, run, pairs)
    assert [contents(artifact) for artifact, _ in pairs] == whole
    assert pairs[0][0].summary["scored"] == 20


def test_rewards_that_do_not_fit_in_memory_together_are_loaded_in_turn(world, tmp_path, monkeypatch):
    run, recipe, _, _ = world
    alive, most = weakref.WeakSet(), []
    real = rater.load_reward

    def load(section, device):
        reward = real(section, device)
        alive.add(reward)
        most.append(len(alive))
        return reward

    monkeypatch.setattr(rater, "load_reward", load)
    checkpoint = str(tiny_rewards.clip(tmp_path / "clip"))
    sections = [{"name": name, "source": "pickscore", "checkpoint": checkpoint} for name in "abc"]
    monkeypatch.setattr(LocalExecutor, "free_memory", lambda self, engine: 100e9)
    score(recipe, run, work(run, *sections))
    assert max(most) == 3
    most.clear()
    # Half of it for weights.
    monkeypatch.setattr(LocalExecutor, "free_memory", lambda self, engine: 3 * 986 * 4e6)
    score(recipe, run, work(run, *[section | {"name": section["name"] * 2} for section in sections]))
    assert max(most) == 1
    assert (
        len({tuple(read_scores(run.artifact(f"scores/{n}"))["score"].to_pylist()) for n in ("a", "cc")}) == 1
    )


def test_out_of_memory_with_several_rewards_falls_back_to_one(world, capsys, monkeypatch):
    monkeypatch.delenv("CAPO_QUIET")
    monkeypatch.setattr("function_rewards.eaten", [])
    run, recipe, _, _ = world
    alive, loaded = weakref.WeakSet(), []
    real = rater.load_reward

    def load(section, device):
        reward = real(section, device)
        alive.add(reward)
        loaded.append(len(alive))
        return reward

    monkeypatch.setattr(rater, "load_reward", load)
    together = work(run, REDNESS, {"name": "hungry", "source": "function_rewards:hungry"})
    score(recipe, run, together)
    assert loaded == [1, 2, 1, 1], "all are unloaded before one is loaded alone"
    assert [artifact.summary["scored"] for artifact, _ in together] == [20, 20]
    assert "one model at a time" in capsys.readouterr().err
    monkeypatch.setattr("function_rewards.eaten", [])
    with pytest.raises(RewardError, match="'alone': out of memory with 8 images at once; lower batch_size"):
        make(run, recipe, name="alone", source="function_rewards:hungry")


def test_truncated_prompts_are_counted_and_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CAPO_QUIET")
    recipe = tiny_run.recipe([REDNESS])
    prompts = [make_prompt("a red circle"), make_prompt("a red circle " * 50), make_prompt("a blue square")]
    section = {"name": "pickscore", "checkpoint": str(tiny_rewards.clip(tmp_path / "clip"))}
    with Run.open(tmp_path / "run") as run:
        tiny_run.fill(run, recipe, prompts)
        artifact = make(run, recipe, **section)
        assert artifact.summary["truncated_prompts"] == 1
        rows = read_scores(artifact).to_pylist()
        assert {r["prompt_id"] for r in rows if r["truncated"]} == {prompts[1].prompt_id}
        assert "pickscore: 1 of 3 prompts are longer" in capsys.readouterr().err
        again = make(run, recipe, **section)  # from existing shards, without the model
        assert again.summary["truncated_prompts"] == 1
        assert "truncated_prompts" not in make(run, recipe, **REDNESS).summary


def test_a_temporarily_unavailable_reward_loses_no_scores(world, monkeypatch):
    run, recipe, _, _ = world
    whole = contents(make(run, recipe, **REDNESS))
    calls = []

    def away(images, prompts):
        calls.append(len(images))
        if len(calls) == 2:
            raise TransientError("the server does not answer")
        return redness(images, prompts)

    away.comparison = redness.comparison
    with monkeypatch.context() as patch:
        patch.setattr("function_rewards.redness", away)
        ((artifact, reward),) = work(run, REDNESS | {"name": "away"})
        with pytest.raises(TransientError, match="does not answer"):
            score(recipe, run, [(artifact, reward)])
    assert artifact.files() == ["shard-00000.parquet"]
    score(recipe, run, [(artifact, reward)])
    assert contents(artifact) == whole


def expected_gaps(pixels):
    """Return the reasons of the samples for which `gappy` has no score."""
    reasons = {}
    for key, image in pixels.items():
        red = image[0, 0, 0]
        if red > 240:
            reasons[key] = "RuntimeError: too red"
        elif red < 16:
            reasons[key] = "the score is nan"
    return reasons


def test_missing_scores_are_stored_as_missing_and_counted(tmp_path):
    prompts = tiny_run.prompts(20)
    recipe = tiny_run.recipe([GAPPY], pairs={"max_skipped": 0.5})
    with Run.open(tmp_path) as run:
        pixels = tiny_run.fill(run, recipe, prompts)
        gaps = expected_gaps(pixels)
        assert len(set(gaps.values())) == 2, "the test needs both kinds"
        artifact = make(run, recipe, **GAPPY)
        for row in read_scores(artifact).to_pylist():
            key = row["prompt_id"], row["sample"]
            assert row["error"] == gaps.get(key)
            assert (row["score"] is None) == (key in gaps)
        assert artifact.summary["missing"] == len(gaps)
        assert artifact.summary["scored"] == 80 - len(gaps)


def test_too_many_missing_scores_stop_the_stage(tmp_path):
    prompts = tiny_run.prompts(20)
    recipe = tiny_run.recipe([GAPPY])
    with Run.open(tmp_path) as run:
        first = next(iter(expected_gaps(tiny_run.fill(run, recipe, prompts)).items()))
        (prompt_id, sample), reason = first
        with pytest.raises(
            RewardError, match=r"'gaps' gave no score for \d of 80 samples, more than"
        ) as raised:
            make(run, recipe, **GAPPY)
        assert "pairs.max_skipped = 0.01" in str(raised.value)
        assert f"prompt {prompt_id}, sample {sample}: {reason}" in str(raised.value)
        assert not run.artifact("scores/gaps").done


def test_missing_scores_of_several_shards_add_up(tmp_path):
    prompts = tiny_run.prompts(20)
    with Run.open(tmp_path) as run:
        gaps = len(expected_gaps(tiny_run.fill(run, tiny_run.recipe([GAPPY]), prompts)))
        most = tiny_run.recipe([GAPPY], pairs={"max_skipped": (gaps - 0.5) / 80})
        with pytest.raises(RewardError, match=rf"'gaps' gave no score for {gaps} of 80 samples"):
            make(run, most, **GAPPY)
        most = tiny_run.recipe([GAPPY], pairs={"max_skipped": gaps / 80})
        assert make(run, most, **GAPPY).summary["missing"] == gaps


def test_shards_with_gaps_are_scored_again(tmp_path, monkeypatch):
    """The cause may have been a service that was down."""
    recipe = tiny_run.recipe([GAPPY])
    with Run.open(tmp_path) as run:
        tiny_run.fill(run, recipe, tiny_run.prompts(20))
        with pytest.raises(RewardError):
            make(run, recipe, **GAPPY)
        redness_like = lambda images, prompts: redness(images, prompts)  # noqa: E731
        redness_like.comparison = gappy.comparison
        monkeypatch.setattr("function_rewards.gappy", redness_like)
        assert make(run, recipe, **GAPPY).summary["missing"] == 0


def test_a_reward_that_always_fails_stops_at_once(world):
    run, recipe, _, _ = world
    with pytest.raises(RewardError, match=r"'broken' failed on every image.*no such model"):
        make(run, recipe, **BROKEN)
    assert run.artifact("scores/broken").files() == []


def test_negative_scores_for_a_power_ratio_stop_the_stage(world):
    run, recipe, prompts, _ = world
    with pytest.raises(
        RewardError, match=f"'neg': score -1 of prompt {prompts[0].prompt_id}, sample 0 is negative"
    ):
        make(run, recipe, name="neg", source="function_rewards:negative")


def test_held_out_rewards_need_no_comparison(world):
    run, recipe, _, _ = world
    artifact = make(run, recipe, name="free", source="function_rewards:undeclared", use="evaluate")
    assert artifact.summary["comparison"] is None
    with pytest.raises(RewardError, match="how its scores compare"):
        make(run, recipe, name="bound", source="function_rewards:undeclared")


def test_scores_by_a_real_model(world, tmp_path):
    from PIL import Image

    from capo.rewards import load_reward

    run, recipe, prompts, pixels = world
    section = {"name": "pickscore", "checkpoint": str(tiny_rewards.clip(tmp_path / "clip"))}
    rows = read_scores(make(run, recipe, **section)).to_pylist()
    reward = load_reward(RewardSection(**section), "cpu")
    for row, prompt in zip(rows, [p for p in prompts for _ in range(4)], strict=True):
        image = Image.fromarray(pixels[row["prompt_id"], row["sample"]])
        assert row["score"] == pytest.approx(reward.score([image], [prompt.text])[0], rel=1e-4, abs=1e-4)
