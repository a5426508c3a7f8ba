"""The train stage as a whole: resuming, validation, and the policy it saves."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from capo.diffusion import load_family
from capo.diffusion.policy import load_policy
from capo.engine.local_executor import LocalExecutor
from capo.engine.seeds import initial_noise, stable_seed
from capo.pretrained.model_loading import quiet
from capo.prompts import make_prompt
from capo.recipe import ModelSection, parse_recipe
from capo.scoring.validation_folders import validated_folders
from capo.store import Run, atomic
from capo.store.step import Job
from capo.training import validation
from capo.training.batches import Batches
from capo.training.fine_tune import least_margin
from capo.training.guards import TrainingDiverged
from capo.training.rollback import RollBacks
from capo.training.train import train
from capo.training.trainer import Trainer
from tiny_training import VALIDATION, contents, copied, recipe, trained

FULL = {"adaptation": "full", "learning_rate": 1e-4}


VALIDATED = {"validation_samples": 2, "validate_every": 3}
DIVERGING = {
    "adaptation": "full",
    "learning_rate": 0.01,
    "max_error_growth": 0.04,
    "on_divergence": "roll-back",
    "steps": 8,
    "ema_decay": 0.5,
}
"""Diverges at step 5, again after returning to the calm step 2, and no more from the start."""


def with_validation(folder, sdxl, **train):
    """A recipe with validation at steps 0, 3 and 6; `train` is merged in."""
    prompts = {"validation_prompts": {"source": str(folder / "validation.txt")}}
    return recipe(folder, sdxl, VALIDATED | prompts | train)


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory, sdxl):
    """A run with validation, trained to its end."""
    folder = tmp_path_factory.mktemp("finished")
    trained(copied(prepared, folder / "run"), with_validation(folder, sdxl))
    return folder / "run"


@pytest.fixture
def interrupt(monkeypatch):
    """Makes training fail just before step `number`, or within it once its gradients exist."""

    def at(number, *, within=False):
        real = Trainer.step

        def step(self, current, batch, halvings):
            if current == number:
                if within:
                    self.optimizer.update = stop
                else:
                    stop()
            return real(self, current, batch, halvings)

        def stop(*_):
            monkeypatch.setattr(Trainer, "step", real)
            raise KeyboardInterrupt

        monkeypatch.setattr(Trainer, "step", step)

    return at


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ({"log_every": 4}, range(1, 7)),
        ({**FULL, "per_device_batch_size": 2}, (4, 6)),  # after the second micro-batch, before the update
        ({"lora_dora": True, "ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 2}, (3, 6)),
        (DIVERGING, (4, 5, 6)),
    ],
    ids=["lora", "full", "dora and average", "rolled back"],
)
def test_a_run_interrupted_at_any_step_ends_with_the_same_bytes(
    prepared, tmp_path, sdxl, interrupt, kind, numbers
):
    settings = recipe(tmp_path, sdxl, kind)
    whole = copied(prepared, tmp_path / "whole")
    trained(whole, settings)
    for number in numbers:
        folder = copied(prepared, tmp_path / f"interrupted-{number}")
        interrupt(number, within=number % 2 == 0)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, settings)
        trained(folder, settings)
        assert contents(folder / "train") == contents(whole / "train"), f"interrupted at step {number}"


@pytest.mark.parametrize(
    ("function", "number", "after"),
    [
        ("sample", 1, True),  # of the base model
        ("sample", 2, False),  # of step 3
        ("score_image_sets", 2, False),  # the images of step 3
        ("score_image_sets", 3, True),  # the images of step 6
    ],
)
def test_an_interrupted_validation_resumes(
    prepared, finished, tmp_path, sdxl, monkeypatch, function, number, after
):
    owner = validation.ValidationImages if function == "sample" else validation
    real, calls = getattr(owner, function), []

    def interrupted(*args, **kwargs):
        calls.append(0)
        if len(calls) < number or after:
            result = real(*args, **kwargs)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    settings = with_validation(tmp_path, sdxl)
    folder = copied(prepared, tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, settings)
    trained(folder, settings)
    for name in ("train", "validation"):
        assert contents(folder / name) == contents(finished / name)


def test_training_logs_its_measures(prepared, tmp_path, sdxl):
    settings = recipe(tmp_path, sdxl, {"log_every": 2, "warmup_steps": 4})
    folder = copied(prepared, tmp_path / "run")
    summary = trained(folder, settings)
    rows = lines(folder / "train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert set(rows[0]) == {
        "step",
        "loss",
        "rewards/margins",
        "rewards/accuracies",
        "rewards/chosen",
        "rewards/rejected",
        "error/chosen",
        "error/rejected",
        "delta_reward",
        "grad_norm",
        "learning_rate",
        "drift",
    }
    assert summary["steps"] == summary["best_step"] == 6
    assert summary["prompts"]["used"] + summary["prompts"]["no_pair"] == 6


def test_the_newest_checkpoints_are_kept(prepared, tmp_path, sdxl):
    settings = recipe(tmp_path, sdxl, {"checkpoint_every": 1, "keep_checkpoints": 2})
    folder = copied(prepared, tmp_path / "run")
    trained(folder, settings)
    kept = sorted(p.name for p in (folder / "train" / "checkpoints").iterdir())
    assert kept == ["step-000005", "step-000006"]


def test_divergence_rolls_back_to_half_the_learning_rate_and_keeps_the_logged_rows(prepared, tmp_path, sdxl):
    folder = copied(prepared, tmp_path / "run")
    summary = trained(folder, recipe(tmp_path, sdxl, DIVERGING))
    assert (summary["steps"], summary["roll_backs"]) == (8, 2)
    first, second = lines(folder / "train" / "roll-backs.jsonl")
    assert (first["to"], second["to"]) == (2, 0)
    assert first["reason"].startswith("step 5: training diverges")
    assert [row["step"] for row in first["metrics"]] == [3, 4, 5]
    assert [row["step"] for row in second["metrics"]] == [1, 2, 3, 4, 5, 6]
    rows = lines(folder / "train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["learning_rate"] for row in rows] == [0.005] * 2 + [0.0025] * 6


def test_a_kill_in_the_middle_of_a_roll_back_changes_nothing(prepared, tmp_path, sdxl, monkeypatch):
    settings = recipe(tmp_path, sdxl, DIVERGING)
    whole, folder = copied(prepared, tmp_path / "whole"), copied(prepared, tmp_path / "run")
    trained(whole, settings)
    real = RollBacks.add
    for after in (False, True):

        def killed(self, *args, after=after):
            if after:
                real(self, *args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(RollBacks, "add", killed)
            with pytest.raises(KeyboardInterrupt):
                trained(folder, settings)
    trained(folder, settings)
    assert contents(folder / "train") == contents(whole / "train")


def test_divergence_stops_and_keeps_the_log(prepared, tmp_path, sdxl):
    folder = copied(prepared, tmp_path / "run")
    settings = recipe(tmp_path, sdxl, DIVERGING | {"on_divergence": "stop"})
    with pytest.raises(TrainingDiverged, match=r"max_error_growth 4%\); lower train.learning_rate"):
        trained(folder, settings)
    rows = lines(folder / "train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert not (folder / "train" / "roll-backs.jsonl").exists()


def test_divergence_may_only_warn(prepared, tmp_path, sdxl, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    folder = copied(prepared, tmp_path / "run")
    summary = trained(folder, recipe(tmp_path, sdxl, DIVERGING | {"on_divergence": "warn"}))
    assert (summary["steps"], summary["roll_backs"]) == (8, 0)
    rows = lines(folder / "train" / "metrics.jsonl")
    assert [row["learning_rate"] for row in rows] == [0.01] * 8
    assert capsys.readouterr().err.count("training diverges") == 1


def test_training_that_never_recovers_gives_up(prepared, tmp_path, sdxl):
    folder = copied(prepared, tmp_path / "run")
    settings = recipe(tmp_path, sdxl, DIVERGING | {"max_error_growth": 1e-9})
    with pytest.raises(TrainingDiverged, match="after 3 roll-backs"):
        trained(folder, settings)
    assert len(lines(folder / "train" / "roll-backs.jsonl")) == 3


def test_a_repeated_step_is_validated_again(prepared, tmp_path, sdxl):
    """The policy at a step before the divergence is another one than at the same step after it."""
    folder = copied(prepared, tmp_path / "run")
    settings = with_validation(tmp_path, sdxl, **DIVERGING, validate_every=2)
    trained(folder, settings)
    assert [row["step"] for row in lines(folder / "train" / "validation.jsonl")] == [0, 2, 4, 6, 8]
    folders = {path.name for path in (folder / "train" / "validation").iterdir()}
    assert {"step-000002", "step-000004", "step-000004-again-1", "step-000004-again-2"} < folders
    first, _ = lines(folder / "train" / "roll-backs.jsonl")
    assert [row["step"] for row in first["validations"]] == [4]
    scored = validated_folders(Run(folder).artifact("train"), ["red", "blue"])
    assert {step: path for step, path in scored.items() if step <= 4} == {
        2: "validation/step-000002-again-2",
        4: "validation/step-000004-again-2",
    }
    (folder / "train" / scored[4] / "scores" / "blue.parquet").unlink()
    again = validated_folders(Run(folder).artifact("train"), ["red", "blue"])
    assert again[4] == "validation/step-000004-again-1", "the last that is scored"


@pytest.mark.parametrize("interrupted", [False, True])
def test_lack_of_progress_ends_training_early(prepared, tmp_path, sdxl, monkeypatch, interrupt, interrupted):
    rates = {0: 0.5, 2: 0.8, 4: 0.6, 6: 0.7}
    monkeypatch.setattr(
        validation.Validation, "run", lambda self, step, _: {"step": step, "win_rate": rates[step]}
    )
    folder = copied(prepared, tmp_path / "run")
    settings = with_validation(tmp_path, sdxl, validate_every=2, patience=2, steps=50)
    if interrupted:
        interrupt(6)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, settings)
    summary = trained(folder, settings)
    assert (summary["steps"], summary["best_step"]) == (6, 2)
    assert "2 validations since step 2" in summary["ended"]


def test_the_average_is_saved(prepared, tmp_path, sdxl):
    folder = copied(prepared, tmp_path / "run")
    trained(folder, recipe(tmp_path, sdxl, {"ema_decay": 0.9}))
    saved = load_file(folder / "train" / "best" / "pytorch_lora_weights.safetensors")
    checkpoint = folder / "train" / "checkpoints" / "step-000006"
    average, policy = (load_file(checkpoint / f"{name}.safetensors") for name in ("average", "policy"))
    sums = [sorted(t.double().sum().item() for t in state.values()) for state in (saved, average, policy)]
    assert sums[0] == sums[1] != sums[2]


def test_held_out_rewards_are_measured_and_decide_nothing(prepared, tmp_path, sdxl):
    values = with_validation(tmp_path, sdxl, steps=1).model_dump(mode="json")
    values["rewards"][1]["use"] = "evaluate"
    folder = copied(prepared, tmp_path / "run")
    trained(folder, parse_recipe(values))
    for row in lines(folder / "train" / "validation.jsonl"):
        assert row["win_rate"] == row["win_rate/red"]
        assert row["held_out_win_rate"] == row["win_rate/blue"]
        assert row["held_out_standard_error"] >= 0
        assert "mean_reward/blue" in row
        assert "judge" not in row, "the prompts do not say what must be seen"


def test_validation_compares_with_the_base_on_equal_seeds(finished):
    artifact = Run(finished).artifact("train")
    summary = artifact.summary
    rows = lines(finished / "train" / "validation.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert rows[0]["win_rate"] == rows[0]["win_rate/red"] == 0.5
    for row in rows:
        assert row["win_rate"] == (row["win_rate/red"] + row["win_rate/blue"]) / 2
    best = max(rows[1:], key=lambda row: row["win_rate"])
    assert (summary["best_step"], summary["best_win_rate"]) == (best["step"], best["win_rate"])
    base = Run(finished).artifact("validation").read_table("base/shard-00000.parquet")["seed"]
    for step in (3, 6):
        assert artifact.read_table(f"validation/step-{step:06d}/shard-00000.parquet")["seed"] == base


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_plain_diffusers_loads_the_best_policy(prepared, finished, tmp_path, sdxl, kind):
    settings, folder = with_validation(tmp_path, sdxl), finished
    if kind == "full":
        folder = copied(prepared, tmp_path / "run")
        trained(folder, with_validation(tmp_path, sdxl, steps=3, **FULL))
    step = Run(folder).artifact("train").summary["best_step"]
    best = folder / "train" / "best"
    with quiet():
        if kind == "full":
            pipeline = StableDiffusionXLPipeline.from_pretrained(best, add_watermarker=False)
        else:
            pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
            pipeline.load_lora_weights(best)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    prompt = make_prompt(VALIDATION[0])
    seed = stable_seed("validation", 0, prompt.prompt_id, 1)
    noise = initial_noise(seed, (4, 8, 8))[None]
    settings = settings.generate
    image = pipeline(
        prompt.text,
        latents=noise,
        height=32,
        width=32,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
    ).images[0]
    artifact = Run(folder).artifact("train")
    table = artifact.read_table(f"validation/step-{step:06d}/shard-00000.parquet")
    validated_image = Image.open(io.BytesIO(table["image"][1].as_py()["bytes"]))
    assert table["seed"][1].as_py() == seed
    difference = np.asarray(image).astype(int) - np.asarray(validated_image).astype(int)
    assert np.abs(difference).max() <= 1

    family = load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu"))
    record = load_policy(family, best)
    assert (record["step"], record["adaptation"]) == (step, kind)
    latents = family.sample(family.encode([prompt.text]), family.unconditional(), noise, settings)
    assert family.decode(latents)[0].tobytes() == image.tobytes()


def test_the_best_is_not_the_last_when_an_earlier_one_was_better(prepared, tmp_path, sdxl, monkeypatch):
    rates = {0: 0.5, 3: 0.8, 6: 0.6}
    monkeypatch.setattr(
        validation.Validation, "run", lambda self, step, _: {"step": step, "win_rate": rates[step]}
    )
    folder = copied(prepared, tmp_path / "run")
    assert trained(folder, with_validation(tmp_path, sdxl))["best_step"] == 3
    checkpoints = folder / "train" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-000003", "step-000004", "step-000006"]
    saved = load_file(folder / "train" / "best" / "pytorch_lora_weights.safetensors")
    kept = load_file(checkpoints / "step-000003" / "policy.safetensors")
    assert sorted(t.double().sum().item() for t in saved.values()) == pytest.approx(
        sorted(t.double().sum().item() for t in kept.values())
    )


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint(
    prepared, tmp_path, sdxl, monkeypatch
):
    settings = recipe(tmp_path, sdxl, {"log_every": 3})  # no loss is logged at the bad step
    whole, folder = copied(prepared, tmp_path / "whole"), copied(prepared, tmp_path / "run")
    trained(whole, settings)
    real = Batches.batch

    def poisoned(self, step):
        batch = real(self, step)
        if step == 4:
            batch.rejected[0] = torch.inf
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "batch", poisoned)
        with pytest.raises(TrainingDiverged, match=r"step 4: the loss is not finite, from prompts \w{16};"):
            trained(folder, settings)
    left = [p.name for p in (folder / "train" / "checkpoints").iterdir()]
    assert left == ["step-000002"]
    trained(folder, settings)  # resumes once the cause is gone
    assert contents(folder / "train") == contents(whole / "train")


class Restarting(LocalExecutor):
    """Trains as on a cluster whose main process is killed while it writes, and started again."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def call_all(self, function, shares=1):
        with pytest.raises(KeyboardInterrupt):
            function(self, None)
        metrics = self.folder / "metrics.jsonl"
        (self.folder / f"{atomic.LENGTH}metrics.jsonl").write_text(str(metrics.stat().st_size))
        with metrics.open("a") as file:
            file.write('{"step": 3, "lo')
        (self.folder / f"{atomic.TEMPORARY}best").mkdir()
        function(self, None)
        return False


def test_processes_that_start_again_undo_writes_that_a_kill_interrupted(prepared, tmp_path, sdxl, interrupt):
    settings = recipe(tmp_path, sdxl)
    trained(copied(prepared, tmp_path / "whole"), settings)
    interrupt(4)
    with Run.open(copied(prepared, tmp_path / "run")) as run:
        artifact = run.artifact("train")
        artifact.begin({})
        train(Job(settings, run, (artifact,), Restarting(artifact.folder)))
    assert contents(tmp_path / "run" / "train") == contents(tmp_path / "whole" / "train")


def test_training_needs_neither_text_encoders_nor_vae(prepared, tmp_path, sdxl):
    checkpoint = shutil.copytree(sdxl, tmp_path / "model")
    for part in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(checkpoint / part)
    (checkpoint / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    folder = copied(prepared, tmp_path / "run")
    assert trained(folder, recipe(tmp_path, checkpoint))["steps"] == 6


@pytest.mark.parametrize(
    ("objective", "chosen", "margin"),
    [("capo", None, None), ("dpo", None, 0.0), ("ipo", None, 0.0), ("capo", 0.1, 0.1), ("dpo", -1.0, -1.0)],
)
def test_the_least_margin_is_the_objectives_unless_chosen(objective, chosen, margin):
    assert least_margin(chosen, objective) == margin
