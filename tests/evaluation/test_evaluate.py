"""The evaluation of a tiny SDXL model; its numbers equal those of plain loops over its files."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

import function_rewards
import tiny_run
from capo import diffusion
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.engine.device import select_device
from capo.engine.seeds import stable_seed
from capo.evaluation import win_rates
from capo.evaluation.baseline import make_baseline
from capo.evaluation.evaluate import evaluate
from capo.evaluation.model_images import JUDGED_SHARDS, JUDGMENTS, read_judgments
from capo.method import mean_interval
from capo.prompts import make_prompt
from capo.rewards.rgb_images import decode_image
from capo.scoring import rater
from capo.shapes.grammar import prompts as shapes_prompts
from capo.shapes.judge import judge
from capo.store import Run, WorkspaceError
from capo.store.step import Job
from parsed_page import ParsedPage

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
    family = load_family(recipe.model, select_device(recipe.engine))
    policy = Policy(family, recipe.train, recipe.seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    train = run.artifact("train")
    train.begin({})
    with train.write_directory("best") as folder:
        base = diffusion.checkpoint_identity(recipe.model.checkpoint, None)
        policy.save(folder, {"step": 7, "win_rate": 0.5, "base": base})
    train.commit()


def run_stage(run, recipe):
    """Make `baseline` and `evaluate`; return the artifact `evaluate`."""
    base = run.artifact("baseline")
    if not base.done:
        base.begin({})
        make_baseline(Job(recipe, run, (base,)))
    artifact = run.artifact("evaluate")
    artifact.begin({})
    evaluate(Job(recipe, run, (artifact,)))
    return artifact


def home(run, model):
    """The artifact that contains a model's images and scores."""
    return run.artifact("evaluate" if model == "tuned" else "baseline")


def contents(run):
    halves = (run.artifact("baseline"), run.artifact("evaluate"))
    return {(half.name, name): half.read_bytes(name) for half in halves for name in half.files()}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, sdxl):
    recipe = make_recipe(sdxl)
    with Run.open(tmp_path_factory.mktemp("evaluate") / "run") as run:
        put_policy(run, recipe)
        yield recipe, run, run_stage(run, recipe)


@pytest.fixture(scope="module")
def pixels(evaluated):
    """Return the values by model, prompt and sample."""
    _, run, _ = evaluated
    found = {}
    for half, name in contents(run):
        if name.startswith("images/"):
            for row in run.artifact(half).read_table(name).to_pylist():
                key = name.split("/")[1], row["prompt_id"], row["sample"]
                found[key] = np.asarray(decode_image(row["image"]["bytes"]))
    return found


@pytest.fixture(scope="module")
def found(evaluated):
    return evaluated[2].read_json("results.json")


def prompt_rows(run):
    return run.artifact("baseline").read_table("prompts.parquet").to_pylist()


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
    _, run, artifact = evaluated
    for half, models, own in (
        ("baseline", ("base", "null"), {"prompts.parquet"}),
        ("evaluate", ("tuned",), {"results.json", "index.html"}),
    ):
        images = {f"images/{m}/shard-0000{i}.parquet" for m in models for i in (0, 1)}
        scores = {f"scores/{m}/{r['name']}.parquet" for m in models for r in REWARDS}
        assert set(run.artifact(half).files()) == images | scores | own | {"judgements.parquet"}
    assert artifact.done


def test_every_model_makes_images_of_every_prompt(evaluated, pixels):
    ids = [row["prompt_id"] for row in prompt_rows(evaluated[1])]
    assert len(ids) == PROMPTS
    assert set(pixels) == set(itertools.product(("base", "tuned", "null"), ids, range(SAMPLES)))
    for prompt_id in ids:
        base, tuned, null = (pixels[m, prompt_id, 0].astype(int) for m in ("base", "tuned", "null"))
        assert (base != tuned).any()
        assert (base != null).any()


def test_base_and_tuned_share_their_seeds(evaluated):
    recipe, run, _ = evaluated
    for model, key in (("base", "evaluate"), ("tuned", "evaluate"), ("null", "evaluate-null")):
        images = f"images/{model}/shard-00000.parquet"
        rows = home(run, model).read_table(images, ["prompt_id", "sample", "seed"])
        for row in rows.to_pylist():
            assert row["seed"] == stable_seed(key, recipe.seed, row["prompt_id"], row["sample"])


def test_win_rates_agree_with_counting(evaluated, pixels, found):
    _, run, _ = evaluated
    rows = prompt_rows(run)
    ids = [row["prompt_id"] for row in rows]
    texts = {row["prompt_id"]: row["text"] for row in rows}
    assert [r["name"] for r in found["rewards"]] == ["red", "contrast", "held"]
    for reward in found["rewards"]:
        scores = own_scores(pixels, texts, reward["name"])
        tuned, null = (naive_rates(scores, model, ids) for model in ("tuned", "null"))
        assert reward["win_rate"] == pytest.approx(np.mean(tuned))
        assert reward["standard_error"] == pytest.approx(np.std(tuned, ddof=1) / math.sqrt(PROMPTS))
        assert (reward["low"], reward["high"]) == pytest.approx(mean_interval(torch.tensor(tuned), (0, 1)))
        assert reward["null_win_rate"] == pytest.approx(np.mean(null))
        interval = mean_interval(torch.tensor(null), (0, 1))
        assert (reward["null_low"], reward["null_high"]) == pytest.approx(interval)
        for model in ("base", "tuned"):
            values = [score for key, score in scores.items() if key[0] == model]
            assert reward[f"mean_{model}"] == pytest.approx(np.mean(values))
        by_category = {}
        for row, rate in zip(rows, tuned, strict=True):
            by_category.setdefault(row["category"], []).append(rate)
        told = {name: category["win_rate"] for name, category in reward["by_category"].items()}
        assert told == pytest.approx({name: np.mean(rates) for name, rates in by_category.items()})
        assert reward["missing"] == {"base": 0, "tuned": 0, "null": 0}


def test_training_win_rate_is_the_mean_of_the_training_rewards(evaluated, pixels, found):
    _, run, _ = evaluated
    rows = prompt_rows(run)
    texts = {row["prompt_id"]: row["text"] for row in rows}
    of_model = {}
    for model in ("tuned", "null"):
        rates = [naive_rates(own_scores(pixels, texts, name), model, texts) for name in ("red", "contrast")]
        of_model[model] = np.mean(rates, axis=0)
    training = found["training_win_rate"]
    assert training["value"] == pytest.approx(of_model["tuned"].mean())
    assert training["null"] == pytest.approx(of_model["null"].mean())
    interval = mean_interval(torch.tensor(of_model["tuned"]), (0, 1))
    assert (training["low"], training["high"]) == pytest.approx(interval)


def test_judgements(evaluated, pixels, found):
    recipe, run, _ = evaluated
    metadata = {
        make_prompt(text).prompt_id: data for text, _, data in shapes_prompts("test", PROMPTS, recipe.seed)
    }
    halves = (run.artifact("baseline"), run.artifact("evaluate"))
    rows = [row for half in halves for row in half.read_table("judgements.parquet").to_pylist()]
    assert len(rows) == 3 * PROMPTS * SAMPLES
    for row in rows:
        image = pixels[row["model"], row["prompt_id"], row["sample"]]
        assert row["correct"] == judge(image, metadata[row["prompt_id"]])
    for model in ("base", "tuned", "null"):
        correct = [row["correct"] for row in rows if row["model"] == model]
        assert found["judge"][model] == pytest.approx(np.mean(correct))
    assert found["judge"]["name"] == "shapes"
    assert sum(c["prompts"] for c in found["judge"]["categories"].values()) == PROMPTS


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_damaged_judgments_are_never_used(tmp_path, committed, share):
    with Run.open(tmp_path) as run:
        baseline = run.artifact("baseline")
        baseline.begin({})
        columns = {"model": ["base"] * 4, "prompt_id": ["p"] * 4, "sample": range(4), "correct": [True] * 4}
        baseline.write_table(JUDGMENTS, pa.table(columns))
        if committed:
            baseline.commit()
        np.testing.assert_array_equal(read_judgments(baseline, 4)["base"], [[True] * 4])
        data = bytearray((baseline.folder / JUDGMENTS).read_bytes())
        data[int(share * len(data))] ^= 0x10
        (baseline.folder / JUDGMENTS).write_bytes(data)
    with pytest.raises(WorkspaceError, match=r"judgements\.parquet is damaged .* remove it"):
        read_judgments(Run(tmp_path).artifact("baseline"), 4)


def test_results_say_what_was_evaluated(evaluated, found):
    assert (found["prompts"], found["samples_per_prompt"]) == (PROMPTS, SAMPLES)
    assert found["policy"] == {"step": 7, "adaptation": "lora"}
    assert found["models"] == {"base": evaluated[0].model.checkpoint, "tuned": "train/best"}
    summary = evaluated[2].summary
    assert summary["win_rate"] == {r["name"]: r["win_rate"] for r in found["rewards"]}


def test_a_stopped_evaluation_resumes(tmp_path, sdxl, evaluated, monkeypatch):
    """An evaluation interrupted while scoring and while judging ends with the same files, byte for byte."""
    recipe = evaluated[0]
    calls, results = [], win_rates.evaluation_results

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
        base = run.artifact("baseline")
        assert base.has("parts/red/images/null/shard-00000.parquet")
        assert not base.has("parts/red/images/null/shard-00001.parquet")

        base.begin({})
        with monkeypatch.context() as patch:
            patch.setattr(diffusion, "load_family", None)  # all its images exist
            make_baseline(Job(recipe, run, (base,)))
        monkeypatch.setattr(win_rates, "evaluation_results", None)
        with pytest.raises(TypeError):
            run_stage(run, recipe)
        assert calls == [12, 6, 12, 6, 6, 12, 6]  # only the interrupted shard is scored twice
        tuned = run.artifact("evaluate")  # as if killed before the judgments on shards were removed
        tuned.write_table(f"{JUDGED_SHARDS}/images/tuned/shard-00000.parquet", tuned.read_table(JUDGMENTS))
        load = diffusion.load_family

        def without_weights(section, device, load_part=None):
            assert device.type == "meta"  # only to count the prompts that are too long
            return load(section, device, load_part)

        monkeypatch.setattr(diffusion, "load_family", without_weights)
        monkeypatch.setattr(rater, "load_reward", None)  # all scores exist
        monkeypatch.setattr(win_rates, "evaluation_results", results)
        run_stage(run, recipe)
        assert contents(run) == contents(evaluated[1])


def test_without_null_row_and_judge(tmp_path, sdxl):
    recipe = make_recipe(sdxl, null_row=False, judge=None, samples_per_prompt=1)
    with Run.open(tmp_path) as run:
        put_policy(run, recipe)
        found = run_stage(run, recipe).read_json("results.json")
    assert "judge" not in found
    for part in (*found["rewards"], found["training_win_rate"]):
        assert not [key for key in part if key.startswith("null")]


def test_images_of_the_same_noise_are_compared(evaluated, pixels, found):
    rows = prompt_rows(evaluated[1])
    texts = {row["prompt_id"]: row["text"] for row in rows}
    for reward in found["rewards"]:
        scores = own_scores(pixels, texts, reward["name"])
        wins = [
            1.0 if (a := scores["tuned", p, k]) > (b := scores["base", p, k]) else 0.5 * (a == b)
            for p in texts
            for k in range(SAMPLES)
        ]
        assert reward["same_seed"]["win_rate"] == pytest.approx(np.mean(wins))


def test_the_page_shows_the_biggest_wins_and_losses(evaluated, found):
    page = ParsedPage(evaluated[2].read_bytes("index.html").decode())
    assert evaluated[0].model.checkpoint in page.text
    assert "train/best" in page.text
    assert f"{100 * found['rewards'][0]['win_rate']:.1f}%" in page.text
    assert len(page.all("img")) >= 2 * SAMPLES * len(REWARDS)


def test_a_judge_needs_prompts_it_understands(tmp_path, sdxl):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    recipe = make_recipe(sdxl, prompts={"source": str(tmp_path / "prompts.txt")})
    with Run.open(tmp_path / "run") as run, pytest.raises(ValueError, match=r"evaluate.judge.*'a cat'"):
        run_stage(run, recipe)


def test_a_judge_rejects_a_size_before_images_are_made(tmp_path, sdxl):
    recipe = make_recipe(sdxl)
    recipe = recipe.model_copy(update={"generate": recipe.generate.model_copy(update={"height": 64})})
    with Run.open(tmp_path) as run:
        put_policy(run, recipe)
        with pytest.raises(ValueError, match=r"evaluate.judge: shapes .* 32×32 .* makes 32×64"):
            run_stage(run, recipe)
        assert not any("images" in name for _, name in contents(run))


def test_tables_of_results_match_the_images(evaluated):
    """Scores and judgments have the rows of the images, in the same order."""
    for model in ("base", "tuned", "null"):
        artifact = home(evaluated[1], model)
        shards = [artifact.read_table(f"images/{model}/shard-0000{i}.parquet") for i in (0, 1)]
        keys = pa.concat_tables(shards).select(["prompt_id", "sample"]).to_pylist()
        scores = artifact.read_table(f"scores/{model}/red.parquet").select(["prompt_id", "sample"])
        assert scores.to_pylist() == keys
