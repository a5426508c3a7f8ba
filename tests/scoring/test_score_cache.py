"""Scores cached by earlier runs are looked up by content alone and are exact."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch

import tiny_rewards
import tiny_run
from capo.prompts import make_prompt
from capo.recipe import RewardSection
from capo.rewards import Scored, reward_identity
from capo.rewards.catalog import CATALOG
from capo.rewards.score_cache import ScoreCache, open_cache, score_key
from capo.scoring import rater
from capo.scoring.score import make_scores
from capo.scoring.score_table import read_scores
from capo.store import Run
from capo.store.step import Job

PROMPTS = tiny_run.prompts(3)
REDNESS = {"name": "red", "source": "function_rewards:redness"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the score cache, which is switched on."""
    monkeypatch.delenv("CAPO_SCORE_CACHE")
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scores"


@pytest.fixture
def clip(tmp_path):
    return {"name": "clip", "source": "pickscore", "checkpoint": str(tiny_rewards.clip(tmp_path / "clip"))}


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Score a new run; return scores by prompt and sample, and the number of images the model scored."""
    given = []
    real = rater.score_images

    def counted(reward, images, *rest):
        given.extend(images)
        return real(reward, images, *rest)

    monkeypatch.setattr(rater, "score_images", counted)

    def scored(section, prompts=PROMPTS):
        given.clear()
        reward, recipe = RewardSection(**section), tiny_run.recipe([section])
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with Run.open(tmp_path / "run") as run:
            tiny_run.fill(run, recipe, prompts)
            artifact = run.artifact(f"scores/{reward.name}")
            artifact.begin({})
            make_scores(Job(recipe, run, (artifact,)))
            rows = read_scores(artifact).to_pylist()
        return {(r["prompt_id"], r["sample"]): (r["score"], r["truncated"]) for r in rows}, len(given)

    return scored


def test_nothing_is_scored_twice_across_runs(scored, clip):
    first, made = scored(clip)
    assert made == 12
    assert scored(clip) == (first, 0)
    assert scored(clip | {"name": "other", "batch_size": 5}) == (first, 0)


def test_stages_share_scores(scored, clip, tmp_path, monkeypatch):
    first, _ = scored(clip)
    texts = {prompt.prompt_id: prompt.text for prompt in PROMPTS}
    monkeypatch.setattr(rater, "load_reward", None)
    known = rater.Rater(RewardSection(**clip | {"name": "another"}), torch.device("cpu"))
    samples = Run(tmp_path / "run").artifact("samples")
    for rows in (samples.read_table(name) for name in samples.files() if name.endswith(".parquet")):
        images = rater.ImageRows(rows, [texts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()])
        scored = known.score(images, known.cached(images))
        for prompt_id, sample, each in zip(*rows.select([0, 1]).to_pydict().values(), scored, strict=True):
            assert (each.score, each.truncated) == first[prompt_id, sample]


def test_any_difference_is_scored_again(scored, clip, tmp_path):
    scored(clip)
    other = make_prompt("another prompt for the same images")
    found, made = scored(clip, [other, *PROMPTS[1:]])
    assert made == 4
    anew, made = scored(clip | {"cache": False}, [other, *PROMPTS[1:]])
    assert made == 12
    assert {key: score for key, (score, _) in found.items()} == pytest.approx(
        {key: score for key, (score, _) in anew.items()}, abs=1e-5
    )
    moved = scored(clip, [PROMPTS[1], PROMPTS[0], PROMPTS[2]])
    assert moved[1] == 8, "an image belongs to its prompt"
    seeded = clip | {"checkpoint": str(tiny_rewards.clip(tmp_path / "other", seed=1))}
    assert scored(seeded)[1] == 12


def test_a_change_of_code_version_or_device_is_scored_again(clip, monkeypatch, folder):
    section = RewardSection(**clip)
    places = [open_cache(section, "cpu"), open_cache(section, "NVIDIA H100")]
    monkeypatch.setattr("capo.rewards.score_cache._code", lambda: "other code")
    places.append(open_cache(section, "cpu"))
    monkeypatch.setattr("capo.rewards.score_cache._versions", lambda: {"torch": "99"})
    places.append(open_cache(section, "cpu"))
    for place in places:
        place.keep([b"k"], [Scored(1.0)])
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    ("section", "kept"),
    [
        (REDNESS, False),
        (REDNESS | {"cache": True}, True),
        ({"name": "x", "command": ["python", "x.py"]}, False),
        ({"name": "x", "url": "http://127.0.0.1:1"}, False),
        ({"name": "shapes-preference"}, True),
        ({"name": "shapes-preference", "url": "http://127.0.0.1:1"}, False),
        ({"name": "shapes-preference", "cache": False}, False),
    ],
)
def test_which_rewards_are_cached(section, kept, monkeypatch):
    assert (open_cache(RewardSection(**section), "cpu") is not None) == kept
    monkeypatch.setenv("CAPO_SCORE_CACHE", "0")
    assert open_cache(RewardSection(**section), "cpu") is None


def test_a_file_named_by_an_option_counts_by_its_content(tmp_path):
    (name,) = [n for n, entry in CATALOG.items() if entry.architecture == "hpsv3:HpsV3"]
    options = {"instruction": str(tmp_path / "instruction.txt")}
    section = RewardSection(name=name, checkpoint=str(tmp_path / "weights"), options=options)
    (tmp_path / "weights").mkdir()
    (tmp_path / "instruction.txt").write_text("one")
    first = reward_identity(section)
    assert reward_identity(section) == first
    (tmp_path / "instruction.txt").write_text("two")
    assert reward_identity(section) != first


def test_missing_scores_are_not_cached(folder):
    cache = ScoreCache(folder / "x.sqlite")
    cache.keep([b"1", b"2"], [Scored(None, "too red"), Scored(0.5)])
    assert cache.find([b"1", b"2"]) == [None, Scored(0.5)]


def test_truncation_is_cached(scored, clip):
    prompts = [make_prompt("a red circle " * 50), *PROMPTS[:2]]
    first, _ = scored(clip, prompts)
    assert sum(truncated for _, truncated in first.values()) == 4
    assert scored(clip, prompts) == (first, 0)


def test_cached_scores_are_exact(folder):
    cache = ScoreCache(folder / "x.sqlite")
    rng = np.random.default_rng(0)
    keys = [score_key(bytes([i % 256]), str(i)) for i in range(1500)]
    truncated = [True, False, None] * 500
    scores = [Scored(float(v), None, t) for v, t in zip(rng.normal(size=1500), truncated, strict=True)]
    assert len(set(keys)) == 1500
    cache.keep(keys, scores)
    assert ScoreCache(folder / "x.sqlite").find([*keys, b"none"]) == [*scores, None]


def _write(path, start):
    cache = ScoreCache(path)
    for i in range(start, start + 20):
        cache.keep([str(i).encode()], [Scored(float(i))])
        assert cache.find([str(i).encode()]) == [Scored(float(i))]


def test_two_processes_at_once(folder):
    path = folder / "x.sqlite"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, start)) for start in (0, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    keys = [str(i).encode() for i in range(30)]
    assert ScoreCache(path).find(keys) == [Scored(float(i)) for i in range(30)]


def test_a_damaged_cache_file_is_ignored(scored, clip, folder, capsys, monkeypatch):
    first, _ = scored(clip)
    (path,) = folder.iterdir()
    path.write_bytes(b"no database" * 100)
    monkeypatch.delenv("CAPO_QUIET")
    assert scored(clip) == (first, 12)
    assert f"{path}: file is not a database" in capsys.readouterr().err
