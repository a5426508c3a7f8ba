"""A further round: it samples the previous policy, calibrates against the base, and continues training."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

import tiny_training
from capo import pipeline
from capo.diffusion import load_family
from capo.diffusion.policy import load_policy
from capo.diffusion.saved import SavedPolicy
from capo.engine.seeds import initial_noise
from capo.method import BradleyTerry, PowerRatio, select_frontier
from capo.pairing.selecting import SelectionRule, make_pairs
from capo.pretrained.model_loading import quiet
from capo.scoring.previous_round import PreviousRound, find_previous_round
from capo.store import Run
from capo.store.manifest import WorkspaceError, describe, sealed
from capo.store.step import Job
from capo.training.train import train
from capo.training.trainer import Trainer

KINDS = {"lora": {}, "full": {"adaptation": "full", "learning_rate": 1e-4}}
STAGES = ("prompts", "generate", "score", "pair", "train")
TRAIN = {"steps": 2, "global_batch_size": 2, "checkpoint_every": 1}


def made(recipe, folder, stages=STAGES):
    for stage in stages:
        pipeline.run(recipe, folder, stage=stage)
    return Run(folder)


@pytest.fixture(scope="module")
def first(sdxl, tmp_path_factory):
    """Returns the recipe and the trained run directory of a first round, by its kind."""
    known = {}

    def make(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            recipe = tiny_training.recipe(folder, sdxl, TRAIN | KINDS[kind])
            made(recipe, folder / "first")
            known[kind] = recipe, folder / "first"
        return known[kind]

    return make


def further(recipe, before, reference="base", **train):
    changed = recipe.model_dump()
    changed["start"] = {"run": str(before), "reference": reference}
    changed["train"] |= train
    return type(recipe).model_validate(changed)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """Returns the recipe and the trained run directory of a second round, by its kind and reference."""
    known = {}

    def make(kind, reference="base"):
        if (kind, reference) not in known:
            recipe, before = first(kind)
            recipe = further(recipe, before, reference)
            folder = tmp_path_factory.mktemp("second") / "run"
            made(recipe, folder)
            known[kind, reference] = recipe, folder
        return known[kind, reference]

    return make


def rows(run, name="samples/shard-00000.parquet"):
    artifact, _, file = name.partition("/")
    return run.artifact(artifact).read_table(file).to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_from_the_policy_with_their_own_noise(first, second, kind):
    recipe, before = first(kind)
    _, folder = second(kind)
    found, old = rows(Run(folder)), rows(Run(before))
    assert [(r["prompt_id"], r["sample"]) for r in found] == [(r["prompt_id"], r["sample"]) for r in old]
    assert not {r["seed"] for r in found} & {r["seed"] for r in old}
    family = load_family(recipe.model, torch.device("cpu"))
    load_policy(family, before / "train/best")
    noise = torch.stack([initial_noise(r["seed"], (4, 8, 8)) for r in found[:4]])
    text = tiny_training.PROMPTS[0]
    conditioning = {n: t.expand(4, *t.shape[1:]) for n, t in family.encode([text]).items()}
    expected = family.sample(conditioning, family.unconditional(), noise, recipe.generate)
    latents = load_file(folder / "samples/shard-00000.latents.safetensors")["latents"]
    torch.testing.assert_close(latents[:4], expected, rtol=1e-4, atol=1e-4)


def test_win_rates_are_over_the_samples_of_the_base_in_the_second_round_and_the_third(
    first, second, tmp_path
):
    recipe, before = first("lora")
    _, folder = second("lora")
    third = further(recipe, folder)
    made(third, tmp_path / "third", STAGES[:-1])
    base = scores(Run(before), recipe)
    for run in (Run(folder), Run(tmp_path / "third")):
        own = scores(run, recipe)
        for row in rows(run, "pairs/pairs.parquet"):
            for sample in range(4):
                for column, name in enumerate(("red", "blue")):
                    mine = own[name][row["prompt_id"], sample]
                    wins = [1 / (1 + np.exp(base[name][row["prompt_id"], k] - mine)) for k in range(4)]
                    assert row["calibrated"][sample][column] == pytest.approx(np.mean(wins), abs=1e-12)
    assert run.artifact("pool").summary == {"prompts": 6, "samples": 24, "round": 3}


def scores(run, recipe):
    return {
        reward.name: {
            (row["prompt_id"], row["sample"]): row["score"]
            for file in run.artifact(f"scores/{reward.name}").files()
            for row in run.artifact(f"scores/{reward.name}").read_table(file).to_pylist()
        }
        for reward in recipe.rewards
    }


def test_samples_are_compared_with_all_fully_scored_samples_of_the_pool():
    rng = np.random.default_rng(0)
    scores, pool = rng.uniform(0.1, 1, (6, 4, 2)), rng.uniform(0.1, 1, (6, 5, 2))
    scores[1, 2, 0] = pool[1, 0, 1] = pool[2, 3, 0] = np.nan
    pool[3, :, 1] = np.nan  # no opponent in the pool
    scores[4, 1:, 0] = np.nan  # no other sample to pair with
    comparisons = [BradleyTerry(0.5), PowerRatio(2.0)]
    rule = SelectionRule(select_frontier, torch.tensor([1.0, 3.0]))
    found = make_pairs(scores, comparisons, rule, pool)
    for prompt, sample in np.ndindex(6, 4):
        mine = scores[prompt, sample]
        others = [other for other in pool[prompt] if np.isfinite(other).all()]
        if prompt in (3, 4) or not np.isfinite(mine).all():
            assert np.isnan(found.calibrated[prompt, sample]).all()
            assert not found.chosen[prompt, sample]
            assert not found.rejected[prompt, sample]
            continue
        first = np.mean([1 / (1 + np.exp(-(mine[0] - other[0]) / 0.5)) for other in others])
        second = np.mean([mine[1] ** 2 / (mine[1] ** 2 + other[1] ** 2) for other in others])
        assert found.calibrated[prompt, sample] == pytest.approx([first, second])
        assert found.combined[prompt, sample] == pytest.approx((first + 3 * second) / 4)
    assert found.set_aside.sum() == 4
    assert found.chosen[[0, 2, 5]].any(axis=1).all()


@pytest.mark.parametrize("reference", ["base", "start"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_from_the_policy_with_the_expected_margin(first, second, kind, reference):
    recipe, folder = second(kind, reference)
    metrics = Run(folder).artifact("train").read_json_lines("metrics.jsonl")
    assert (metrics[0]["rewards/margins"] == 0) == (reference == "start")
    assert (metrics[0]["drift"] == 0) == (reference == "start")
    record = json.loads((folder / "train/best/capo.json").read_text())
    assert record["round"] == 2
    state = json.loads((folder / "train/checkpoints/step-000002/state.json").read_text())
    assert (
        state["reference"]["start"]
        == find_previous_round(recipe.start, recipe.model, recipe.train).policy.identity
    )


@pytest.mark.parametrize("kind", KINDS)
def test_plain_diffusers_loads_the_saved_policy_on_the_base(sdxl, second, kind, tmp_path):
    recipe, folder = second(kind, "start")
    best = folder / "train/best"
    family = load_family(recipe.model, torch.device("cpu"))
    load_policy(family, best)
    with quiet():
        if kind == "lora":
            pipe = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
            pipe.load_lora_weights(best)
        else:
            pipe = StableDiffusionXLPipeline.from_pretrained(best, add_watermarker=False)
    own, plain = (dict(net.named_parameters()) for net in (family.denoiser, pipe.unet))
    assert own.keys() == plain.keys()
    assert all(torch.equal(own[name], plain[name]) for name in own)
    last = load_file(folder / "train/checkpoints/step-000002/policy.safetensors")
    # diffusers gives a loaded adapter another name.
    assert all(torch.equal(own[n.replace(".default.", ".default_0.")], last[n]) for n in last)


@pytest.mark.parametrize("reference", ["base", "start"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_round_ends_with_the_same_bytes(second, kind, reference, tmp_path, monkeypatch):
    recipe, folder = second(kind, reference)
    copy = tiny_training.copied(folder, tmp_path / "copy")
    step = Trainer.step

    def broken(self, number, *rest):
        if number == 2:
            raise OSError("pulled the plug")
        return step(self, number, *rest)

    with Run.open(copy) as run:
        artifact = run.artifact("train")
        artifact.begin({}, force=True)
        monkeypatch.setattr(Trainer, "step", broken)
        with pytest.raises(OSError, match="plug"):
            train(Job(recipe, run, (artifact,)))
        assert (copy / "train/checkpoints/step-000001").is_dir()
        monkeypatch.undo()
        train(Job(recipe, run, (artifact,)))
    assert tiny_training.contents(copy / "train") == tiny_training.contents(folder / "train")


def test_the_noise_of_samples_is_reproduced(second, tmp_path, monkeypatch):
    recipe, folder = second("lora")
    prior = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"noise": "prior", "steps": 1})}
    )
    seen = []
    step = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, n, batch, *rest: seen.append(batch) or step(self, n, batch)
    )
    with Run.open(tiny_training.copied(folder, tmp_path / "copy")) as run:
        artifact = run.artifact("train")
        artifact.begin({}, force=True)
        train(Job(prior, run, (artifact,)))
    seeds = {}
    for row in rows(Run(folder)) + rows(Run(folder), "samples/shard-00001.parquet"):
        seeds.setdefault(row["prompt_id"], []).append(row["seed"])
    (batch,) = seen
    for prompt, noise in zip(batch.prompt_ids, batch.noise_chosen, strict=True):
        assert any(torch.equal(noise, initial_noise(seed, (4, 8, 8))) for seed in seeds[prompt])


def test_validation_is_against_the_base_from_the_first_step_on(first, tmp_path):
    recipe, before = first("lora")
    prompts = {"source": recipe.evaluate.prompts.source}
    recipe = further(
        recipe, before, "start", validation_prompts=prompts, validate_every=1, validation_samples=2
    )
    made(recipe, tmp_path / "run")
    validations = Run(tmp_path / "run").artifact("train").read_json_lines("validation.jsonl")
    assert [row["step"] for row in validations] == [0, 1, 2]
    assert (tmp_path / "run/train/validation/step-000000").is_dir()
    own, base = (
        [row["image"] for row in rows(Run(tmp_path / "run"), f"{name}/shard-00000.parquet")]
        for name in ("train/validation/step-000000", "validation/base")
    )
    assert own != base


def test_a_round_can_be_moved(second, tmp_path):
    recipe, folder = second("lora")
    moved = tiny_training.copied(folder, tmp_path / "moved")
    before = tiny_training.copied(recipe.start.run, tmp_path / "before")
    rewritten = further(recipe, before)
    states = {status.name: status.state for status in pipeline.status(rewritten, moved)}
    assert {states[name] for name in ("prompts", "pool", "samples", "pairs", "train")} == {"done"}


def test_a_finished_round_stays_finished_without_the_previous_one(second, tmp_path):
    recipe, folder = second("lora")
    alone = further(recipe, tmp_path / "removed")
    states = {status.name: status.state for status in pipeline.status(alone, folder)}
    assert {states[name] for name in ("prompts", "pool", "samples", "pairs", "train")} == {"done"}
    other = alone.rewards[0].model_copy(update={"source": "tiny_training:blueness"})
    changed = alone.model_copy(update={"rewards": (other, *alone.rewards[1:])})
    assert {s.name: s.state for s in pipeline.status(changed, folder)}["pool"] == "stale"


def test_another_policy_or_reference_makes_dependent_artifacts_stale(second, first, tmp_path):
    recipe, folder = second("lora")
    other = further(recipe, recipe.start.run, "start")
    stale = {e.name for e in pipeline.status(other, folder) if e.state == "stale"}
    assert stale == {"train"}
    before = tiny_training.copied(recipe.start.run, tmp_path / "before")
    policy = before / "train/best/capo.json"
    policy.write_text(policy.read_text() + "\n")
    manifest = before / "manifests/train.json"
    record = json.loads(manifest.read_text())
    record["files"]["best/capo.json"] = describe(policy)
    manifest.write_text(json.dumps(sealed(record)))
    stale = {e.name for e in pipeline.status(further(recipe, before), folder) if e.state == "stale"}
    assert {"samples", "pairs", "train"} <= stale
    assert "pool" not in stale


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": {"run": "nowhere"}}, "start.run: nowhere is not a run directory with a finished training"),
        ({"train": {"lora_rank": 3}}, "train.lora_rank is 3, .* trained with 2"),
        ({"train": {"lora_alpha": 5.0}}, "train.lora_alpha is 5.0, .* with 2"),
        ({"train": {"lora_targets": ["to_q"]}}, "train.lora_targets is .*to_q"),
        ({"train": {"adaptation": "full"}}, "train.adaptation is full, .* with lora"),
        ({"rewards": [{"name": "green", "source": "tiny_training:redness"}]}, "no scores .* 'green'"),
        ({"rewards": [{"name": "red", "source": "tiny_training:blueness"}]}, "scored by another reward"),
    ],
)  # fmt: skip
def test_an_unsuitable_start_is_rejected_before_any_work(first, tmp_path, changed, message):
    recipe, before = first("lora")
    values = further(recipe, before).model_dump()
    for name, section in changed.items():
        values[name] = values[name] | section if isinstance(section, dict) else section
    with pytest.raises(ValueError, match=message):
        pipeline.run(type(recipe).model_validate(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_commit_does_not_make_scores_stale(tmp_path):
    commit = "owner/name@" + 40 * "a"
    with Run.open(tmp_path / "first") as run:
        scores = run.artifact("scores/x")
        scores.begin({"rewards.x.weights": commit})
        scores.commit()
    start = PreviousRound(run, SavedPolicy(tmp_path, {}), "base")
    same = {"rewards.x.weights": "owner/name@main"}
    assert start.pool_identity("x", same) == scores.digest
    with pytest.raises(ValueError, match="scored by another reward"):
        start.pool_identity("x", {"rewards.x.weights": "owner/name@" + 40 * "b"})


def test_prompts_without_a_pool_are_named(first, tmp_path):
    recipe, before = first("lora")
    (tmp_path / "more.txt").write_text("a red circle\na green circle\nsomething else\n")
    values = further(recipe, before).model_dump()
    values["prompts"]["source"] = str(tmp_path / "more.txt")
    with pytest.raises(WorkspaceError, match="no samples of the prompt 'something else'"):
        pipeline.run(type(recipe).model_validate(values), tmp_path / "run", stage="prompts")


def test_a_round_does_not_start_from_its_own_directory(first, tmp_path):
    recipe, before = first("lora")
    copy = tiny_training.copied(before, tmp_path / "copy")
    for force in (False, True):
        with pytest.raises(WorkspaceError, match=r"start\.run"):
            pipeline.run(further(recipe, copy), copy, force=force)
    assert pipeline.status(recipe, copy)[4].state == "done"


def test_imported_images_cannot_be_used_in_rounds(first):
    recipe, before = first("lora")
    values = further(recipe, before).model_dump() | {"images": {"source": "folder"}}
    values["prompts"]["source"] = "images"
    with pytest.raises(ValueError, match="start: a further round samples from a policy"):
        type(recipe).model_validate(values)
