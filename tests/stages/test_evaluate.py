"""The evaluation of a tiny SDXL model, its numbers against plain loops over what it wrote."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

import function_rewards
import tiny_run
from capo import runtime
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.method import bootstrap_interval
from capo.prompts import make_prompt
from capo.rewards import RewardError
from capo.rewards.images import decode_image
from capo.seeds import stable_seed
from capo.shapes.judge import judge
from capo.shapes.prompts import prompts as shapes_prompts
from capo.stages import evaluate as stage
from capo.stages.evaluate import evaluate
from capo.stages.results import prompt_win_rates, results, warnings
from capo.workspace import Run

REWARDS = [
    {"name": "red", "source": "function_rewards:redness"},
    {"name": "contrast", "source": "function_rewards:contrast"},
    {"name": "held", "source": "function_rewards:undeclared", "use": "evaluate"},
]
PROMPTS, SAMPLES = 6, 3


def make_recipe(sdxl, rewards=REWARDS, **evaluate):
    return tiny_run.recipe(
        rewards,
        model={"checkpoint": str(sdxl)},
        generate={"num_inference_steps": 2, "shard_prompts": 4},
        train={"lora_rank": 2},
        evaluate={
            "prompts": {"source": "shapes:test", "count": PROMPTS},
            "samples_per_prompt": SAMPLES,
            "judge": "shapes",
        }
        | evaluate,
    )


def put_policy(run, recipe):
    """A best checkpoint that differs visibly from the base."""
    family = load_family(recipe.model, runtime.device(recipe.engine))
    policy = Policy(family, recipe.train, recipe.seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    train = run.artefact("train")
    train.begin({})
    with train.write_directory("best") as folder:
        policy.save(folder, {"step": 7, "win_rate": 0.5})
    train.commit()


def run_stage(run, recipe):
    artefact = run.artefact("evaluate")
    artefact.begin({})
    evaluate(recipe, run, artefact)
    return artefact


def contents(artefact):
    return {name: artefact.read_bytes(name) for name in artefact.files()}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, sdxl):
    recipe = make_recipe(sdxl)
    with Run.open(tmp_path_factory.mktemp("evaluate") / "run") as run:
        put_policy(run, recipe)
        yield recipe, run, run_stage(run, recipe)


@pytest.fixture(scope="module")
def pixels(evaluated):
    """By model, prompt and sample."""
    _, _, artefact = evaluated
    found = {}
    for name in artefact.files():
        if name.startswith("images/"):
            for row in artefact.read_table(name).to_pylist():
                key = name.split("/")[1], row["prompt_id"], row["sample"]
                found[key] = np.asarray(decode_image(row["image"]["bytes"]))
    return found


@pytest.fixture(scope="module")
def found(evaluated):
    return evaluated[2].read_json("results.json")


def prompt_rows(artefact):
    return artefact.read_table("prompts.parquet").to_pylist()


def naive_rates(scores, candidate, prompt_ids):
    """Win-rate of each prompt over the base by counting."""
    rates = []
    for p in prompt_ids:
        wins = 0.0
        for a, b in itertools.product(range(SAMPLES), repeat=2):
            first, second = scores[candidate, p, a], scores["base", p, b]
            wins += 1.0 if first > second else 0.5 if first == second else 0.0
        rates.append(wins / SAMPLES**2)
    return rates


def own_scores(pixels, texts, name):
    function = getattr(
        function_rewards, {"red": "redness", "contrast": "contrast", "held": "undeclared"}[name]
    )
    return {key: function([image], [texts[key[1]]])[0] for key, image in pixels.items()}


def test_layout(evaluated):
    _, _, artefact = evaluated
    models = ("base", "null", "tuned")
    images = {f"images/{m}/shard-0000{i}.parquet" for m in models for i in (0, 1)}
    scores = {f"scores/{m}/{r['name']}.parquet" for m in models for r in REWARDS}
    assert set(artefact.files()) == images | scores | {
        "prompts.parquet",
        "judgements.parquet",
        "results.json",
    }
    assert artefact.done


def test_every_model_makes_images_of_every_prompt(evaluated, pixels):
    ids = [row["prompt_id"] for row in prompt_rows(evaluated[2])]
    assert len(ids) == PROMPTS
    assert set(pixels) == set(itertools.product(("base", "tuned", "null"), ids, range(SAMPLES)))
    for prompt_id in ids:
        base, tuned, null = (pixels[m, prompt_id, 0].astype(int) for m in ("base", "tuned", "null"))
        assert (base != tuned).any()
        assert (base != null).any()


def test_base_and_tuned_share_their_seeds(evaluated):
    recipe, _, artefact = evaluated
    for model, key in (("base", "evaluate"), ("tuned", "evaluate"), ("null", "evaluate-null")):
        rows = artefact.read_table(f"images/{model}/shard-00000.parquet", ["prompt_id", "sample", "seed"])
        for row in rows.to_pylist():
            assert row["seed"] == stable_seed(key, recipe.seed, row["prompt_id"], row["sample"])


def test_win_rates_agree_with_counting(evaluated, pixels, found):
    recipe, _, artefact = evaluated
    rows = prompt_rows(artefact)
    ids = [row["prompt_id"] for row in rows]
    texts = {row["prompt_id"]: row["text"] for row in rows}
    seed = stable_seed("bootstrap", recipe.seed)
    assert [r["name"] for r in found["rewards"]] == ["red", "contrast", "held"]
    for reward in found["rewards"]:
        scores = own_scores(pixels, texts, reward["name"])
        tuned, null = (naive_rates(scores, model, ids) for model in ("tuned", "null"))
        assert reward["win_rate"] == pytest.approx(np.mean(tuned))
        assert reward["standard_error"] == pytest.approx(np.std(tuned, ddof=1) / math.sqrt(PROMPTS))
        assert (reward["low"], reward["high"]) == pytest.approx(bootstrap_interval(torch.tensor(tuned), seed))
        assert reward["null_win_rate"] == pytest.approx(np.mean(null))
        interval = bootstrap_interval(torch.tensor(null), seed)
        assert (reward["null_low"], reward["null_high"]) == pytest.approx(interval)
        for model in ("base", "tuned"):
            values = [score for key, score in scores.items() if key[0] == model]
            assert reward[f"mean_{model}"] == pytest.approx(np.mean(values))
        by_category = {}
        for row, rate in zip(rows, tuned, strict=True):
            by_category.setdefault(row["category"], []).append(rate)
        assert reward["by_category"] == {
            name: {"win_rate": pytest.approx(np.mean(rates)), "prompts": len(rates)}
            for name, rates in by_category.items()
        }
        assert reward["missing"] == {"base": 0, "tuned": 0, "null": 0}


def test_training_win_rate_is_the_mean_of_the_training_rewards(evaluated, pixels, found):
    recipe, _, artefact = evaluated
    rows = prompt_rows(artefact)
    texts = {row["prompt_id"]: row["text"] for row in rows}
    of_model = {}
    for model in ("tuned", "null"):
        rates = [naive_rates(own_scores(pixels, texts, name), model, texts) for name in ("red", "contrast")]
        of_model[model] = np.mean(rates, axis=0)
    training = found["training_win_rate"]
    assert training["value"] == pytest.approx(of_model["tuned"].mean())
    assert training["null"] == pytest.approx(of_model["null"].mean())
    seed = stable_seed("bootstrap", recipe.seed)
    interval = bootstrap_interval(torch.tensor(of_model["tuned"]), seed)
    assert (training["low"], training["high"]) == pytest.approx(interval)


def test_judgements(evaluated, pixels, found):
    recipe, _, artefact = evaluated
    metadata = {
        make_prompt(text).prompt_id: data for text, _, data in shapes_prompts("test", PROMPTS, recipe.seed)
    }
    rows = artefact.read_table("judgements.parquet").to_pylist()
    assert len(rows) == 3 * PROMPTS * SAMPLES
    for row in rows:
        image = pixels[row["model"], row["prompt_id"], row["sample"]]
        assert row["correct"] == judge(image, metadata[row["prompt_id"]])
    for model in ("base", "tuned", "null"):
        correct = [row["correct"] for row in rows if row["model"] == model]
        assert found["judge"][model] == pytest.approx(np.mean(correct))
    assert found["judge"]["name"] == "shapes"
    assert sum(c["prompts"] for c in found["judge"]["categories"].values()) == PROMPTS


def test_results_say_what_was_evaluated(evaluated, found):
    assert (found["prompts"], found["samples_per_prompt"]) == (PROMPTS, SAMPLES)
    assert found["policy"] == {"step": 7, "adaptation": "lora"}
    summary = evaluated[2].summary
    assert summary["win_rate"] == {r["name"]: r["win_rate"] for r in found["rewards"]}


def test_a_stopped_evaluation_goes_on(tmp_path, sdxl, evaluated, monkeypatch):
    """Interrupted while scoring and while judging, it ends in the same files, byte for byte."""
    recipe = evaluated[0]
    calls = []

    def interrupted(images, prompts):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return function_rewards.redness_as_it_is(images, prompts)

    interrupted.comparison = function_rewards.redness.comparison
    monkeypatch.setattr(function_rewards, "redness_as_it_is", function_rewards.redness, raising=False)
    monkeypatch.setattr(function_rewards, "redness", interrupted)
    with Run.open(tmp_path) as run:
        put_policy(run, recipe)
        with pytest.raises(KeyboardInterrupt):
            run_stage(run, recipe)
        artefact = run.artefact("evaluate")
        assert artefact.has("scores/base/red.parquet")
        assert artefact.has("parts/tuned/red/shard-00000.parquet")

        monkeypatch.setattr(stage, "load_family", None)  # all images are there
        monkeypatch.setattr(stage, "results", None)
        with pytest.raises(TypeError):
            run_stage(run, recipe)
        assert calls == [12, 6, 12, 6, 6, 12, 6]  # only the shard that was interrupted comes twice
        monkeypatch.setattr(stage, "load_reward", None)  # all scores are there
        monkeypatch.setattr(stage, "results", results)
        assert contents(run_stage(run, recipe)) == contents(evaluated[2])


def test_images_beyond_the_memory_limit_are_decoded_again(evaluated, monkeypatch):
    _, _, artefact = evaluated
    images = stage.Images(artefact, "base")
    assert images.shards == ["shard-00000.parquet", "shard-00001.parquet"]
    first = images.read("shard-00000.parquet")[1]
    assert images.read("shard-00000.parquet")[1] is first
    monkeypatch.setattr(stage, "KEPT_BYTES", 12 * 32 * 32 * 3)
    assert images.read("shard-00001.parquet")[1] is not images.read("shard-00001.parquet")[1]


def test_without_null_row_and_judge(tmp_path, sdxl):
    recipe = make_recipe(sdxl, null_row=False, judge=None, samples_per_prompt=1)
    with Run.open(tmp_path) as run:
        put_policy(run, recipe)
        found = run_stage(run, recipe).read_json("results.json")
    assert "judge" not in found
    for part in (*found["rewards"], found["training_win_rate"]):
        assert not [key for key in part if key.startswith("null")]


def test_a_judge_needs_prompts_it_understands(tmp_path, sdxl):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    recipe = make_recipe(sdxl, prompts={"source": str(tmp_path / "prompts.txt")})
    with Run.open(tmp_path / "run") as run, pytest.raises(ValueError, match=r"evaluate.judge.*'a cat'"):
        run_stage(run, recipe)


def test_a_judge_refuses_a_size_before_images_are_made(tmp_path, sdxl):
    recipe = make_recipe(sdxl)
    recipe = recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"height": 64})})
    with Run.open(tmp_path) as run:
        put_policy(run, recipe)
        with pytest.raises(ValueError, match=r"evaluate.judge: shapes .* 32×32 .* makes 32×64"):
            run_stage(run, recipe)
        assert not any("images" in name for name in run.artefact("evaluate").files())


# The numbers alone.


def numbers(scores, correct=None, **recipe):
    """Results of given scores by reward and model [P, K]."""
    count = len(next(iter(scores.values()))["base"])
    rewards = [r for r in REWARDS if r["name"] in scores]
    settings = tiny_run.recipe(rewards, evaluate={"null_row": False} | recipe)
    return results(settings, tiny_run.prompts(count), scores, correct)


def test_missing_scores_leave_their_image_out():
    base = np.array([[1.0, 3.0, np.nan], [1.0, 1.0, 1.0], [np.nan] * 3, [0.0, 0.0, 0.0]])
    tuned = np.array([[2.0, 2.0, 2.0], [0.0, np.nan, 2.0], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0]])
    rates = prompt_win_rates("red", tuned, base)
    np.testing.assert_allclose(rates, [0.5, 0.5, np.nan, 2.5 / 3])
    found = numbers({"red": {"base": base, "tuned": tuned}})
    assert found["rewards"][0]["win_rate"] == pytest.approx(np.mean([0.5, 0.5, 2.5 / 3]))
    assert found["rewards"][0]["missing"] == {"base": 4, "tuned": 1}
    assert found["rewards"][0]["mean_base"] == pytest.approx(7 / 8)
    assert found["rewards"][0]["by_category"]["one"]["prompts"] == 1
    assert found["warnings"] == ["5 images without a score by red are left out of its numbers."]


def test_the_training_mean_is_of_prompts_with_all_rewards():
    base = np.zeros((3, 2))
    red, contrast = np.ones((3, 2)), -np.ones((3, 2))
    red[2], contrast[0] = np.nan, 1.0
    both = {"red": {"base": base, "tuned": red}, "contrast": {"base": base, "tuned": contrast}}
    assert numbers(both)["training_win_rate"]["value"] == pytest.approx(np.mean([1.0, 0.5]))


def test_a_reward_without_scores_is_refused():
    base = np.ones((2, 2))
    with pytest.raises(RewardError, match="'red' gave scores to both models on none of 2 prompts"):
        numbers({"red": {"base": base, "tuned": np.full((2, 2), np.nan)}})


def test_one_prompt_has_no_standard_error():
    found = numbers({"red": {"base": np.zeros((1, 2)), "tuned": np.ones((1, 2))}})
    assert found["rewards"][0]["standard_error"] is None
    assert found["rewards"][0]["low"] == found["rewards"][0]["high"] == 1.0


def test_identical_models_tie():
    same = np.random.default_rng(0).normal(size=(20, 4))
    found = numbers({"red": {"base": same, "tuned": same}})
    assert found["rewards"][0]["win_rate"] == 0.5
    assert found["warnings"] == []


def hacking(held, correct_tuned):
    zero, one = np.zeros((20, 2)), np.ones((20, 2))
    scores = {"red": {"base": zero, "tuned": one}, "held": {"base": zero, "tuned": held * one}}
    verdicts = {"base": one > 0, "tuned": np.full((20, 2), correct_tuned)}
    return numbers(scores, verdicts, judge="shapes")["warnings"]


def test_reward_hacking_is_reported():
    assert hacking(held=1, correct_tuned=True) == []
    (held,) = hacking(held=-1, correct_tuned=True)
    assert held == (
        "The held-out reward held prefers the base (win-rate 0.0% [0.0, 0.0]) while the training "
        "rewards prefer it (100.0% [100.0, 100.0]): reward hacking."
    )
    (judged,) = hacking(held=1, correct_tuned=False)
    assert judged.startswith(
        "The shapes judge finds 100.0 points fewer images correct than of the base while"
    )
    assert len(hacking(held=-1, correct_tuned=False)) == 2


def test_no_hacking_without_a_gain():
    """A model that is worse by every measure is worse, not hacked."""
    found = {
        "training_win_rate": {"value": 0.5, "low": 0.4, "high": 0.6},
        "rewards": [{"name": "h", "use": "evaluate", "win_rate": 0.1, "low": 0, "high": 0.2, "missing": {}}],
        "judge": {"name": "shapes", "difference": -0.5, "low": -0.6, "high": -0.4},
    }
    assert warnings(found) == []


def test_judge_difference_is_paired_by_prompt():
    zero = np.zeros((4, 2))
    base = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)
    tuned = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], dtype=bool)
    found = numbers({"red": {"base": zero, "tuned": zero}}, {"base": base, "tuned": tuned}, judge="shapes")
    differences = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    low, high = bootstrap_interval(differences, stable_seed("bootstrap", 0))
    assert found["judge"] == {
        "name": "shapes",
        "base": 0.625,
        "tuned": 0.875,
        "difference": 0.25,
        "low": low,
        "high": high,
        "categories": {
            "one": {"base": 0.5, "tuned": 0.75, "prompts": 2},
            "two": {"base": 0.75, "tuned": 1.0, "prompts": 2},
        },
    }


def test_tables_of_results_match_the_images(evaluated):
    """Scores and judgements are rows of the images, in their order."""
    _, _, artefact = evaluated
    for model in ("base", "tuned", "null"):
        shards = [artefact.read_table(f"images/{model}/shard-0000{i}.parquet") for i in (0, 1)]
        keys = pa.concat_tables(shards).select(["prompt_id", "sample"]).to_pylist()
        scores = artefact.read_table(f"scores/{model}/red.parquet").select(["prompt_id", "sample"])
        assert scores.to_pylist() == keys
