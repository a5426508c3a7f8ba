"""What a check finds before a run: everything that any stage would reject, all at once."""

import json
import socket
import sys
from collections import namedtuple

import pytest
from typer.testing import CliRunner

import tiny_training
from capo import pipeline
from capo.cli import app
from capo.pipeline import PreflightError, preflight
from capo.recipe import dump_recipe, parse_recipe
from capo.store import Run
from capo.store.check import Finding


@pytest.fixture
def good(tmp_path, sdxl):
    """Values of a recipe that would run."""
    values = tiny_training.recipe(tmp_path, sdxl).model_dump(mode="json")
    (tmp_path / "test.txt").write_text("an owl\na fish\n")
    (tmp_path / "validation.txt").write_text("a hat\na shoe\n")
    values["evaluate"]["prompts"]["source"] = str(tmp_path / "test.txt")
    values["train"]["validation_prompts"] = {"source": str(tmp_path / "validation.txt")}
    return values


def changed(values, **sections):
    merged = {
        name: value | sections.get(name, {}) for name, value in values.items() if isinstance(value, dict)
    }
    return parse_recipe(values | merged | {n: v for n, v in sections.items() if not isinstance(v, dict)})


def found(recipe, directory, severity="error", **stages):
    """Fields and messages of the findings of one severity."""
    findings = preflight.check(recipe, directory, **stages)
    return {finding.field: finding.message for finding in findings if finding.severity == severity}


def test_a_recipe_that_would_run_has_no_errors(good, tmp_path):
    recipe = parse_recipe(good)
    assert found(recipe, tmp_path / "run") == {}
    assert found(recipe, tmp_path / "run", "warning") == {}
    counts = found(recipe, tmp_path / "run", "note")
    assert {field: message.split()[0] for field, message in counts.items()} == {
        "prompts": "6", "train.validation_prompts": "2", "evaluate.prompts": "2",
        # 6 × 4 samples, (1 + 1) × 2 × 4 for validation, 3 × 2 × 8 for evaluation.
        "generate.image_format": "88",
    }  # fmt: skip


def rewards(**named):
    return [{"name": name.replace("_", "-"), "comparison": "bradley-terry"} | v for name, v in named.items()]


def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


FAULTS = [
    ({"generate": {"scheduler": "DDIMSheduler"}}, "generate.scheduler", "DDIMScheduler"),
    ({"generate": {"shift": 3.0}}, "generate.shift", "flow"),
    ({"generate": {"width": 33}}, "generate.width", "multiple"),
    ({"generate": {"height": 30}}, "generate.height", "multiple"),
    ({"model": {"attention": "flashh"}}, "model.attention", "flashh"),
    ({"model": {"variant": "fp16"}}, "model.variant", "fp16"),
    ({"train": {"lora_targets": ["to_q", "to_w"]}}, "train.lora_targets", "to_w"),
    ({"train": {"time_sampling": "logit-normal"}}, "train.time_sampling", "flow"),
    ({"train": {"timesteps": [5000]}}, "train.timesteps", "5000"),
    ({"train": {"optimizer": "adamw-8bit"}}, "train.optimizer", "bitsandbytes"),
    ({"train": {"validation_prompts": {"source": "no.txt"}}}, "train.validation_prompts.source", "no.txt"),
    ({"prompts": {"source": "prompts.txt"}}, "prompts.source", "prompts.txt"),
    ({"prompts": {"count": 7}}, "prompts", "6 distinct"),
    ({"evaluate": {"prompts": {"source": "hub:owner/none"}}}, "evaluate.prompts.source", "hub:owner/none"),
    ({"evaluate": {"judge": "nobody"}}, "evaluate.judge", "nobody"),
    ({"evaluate": {"judge": "shapes"}}, "evaluate.judge", "metadata"),
    ({"evaluate": {"against": "nowhere"}}, "evaluate.against", "nowhere"),
    ({"evaluate": {"embedder": "owner/none"}}, "evaluate.embedder", "owner/none"),
    ({"engine": {"device": "cuda:77"}}, "engine.device", "cuda:77"),
    ({"engine": {"executor": "ray"}}, "engine.executor", "capo-diffusion[ray]"),
    ({"rewards": rewards(mine={"source": "function_rewards:undeclared", "comparison": None})},
     "rewards.mine.comparison", "bradley-terry"),
    ({"rewards": rewards(mine={"source": "function_rewards:missing"})}, "rewards.mine", "missing"),
    ({"rewards": rewards(mine={"source": "no_such_module:f"})}, "rewards.mine", "no_such_module"),
    ({"rewards": rewards(pikscore={})}, "rewards.pikscore", "pickscore"),
    ({"rewards": rewards(mine={"source": "shapes-preference", "exponent": 2, "comparison": None})},
     "rewards.mine.comparison", "exponent"),
    ({"rewards": rewards(pickscore={"options": {"temprature": 1}})}, "rewards.pickscore", "temprature"),
    ({"rewards": rewards(pickscore={})}, "rewards.pickscore", "MIT"),
    ({"rewards": rewards(imagereward={})}, "rewards.imagereward", "pickle"),
    ({"rewards": rewards(mine={"command": ["/no/such/program"]})}, "rewards.mine", "/no/such/program"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "field", "words"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_fault_of_any_stage_is_found_before_the_first(good, tmp_path, monkeypatch, fault, field, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for package in ("bitsandbytes", "ray"):
        monkeypatch.setitem(sys.modules, package, None)
    errors = found(changed(good, **fault), tmp_path / "run")
    assert list(errors) == [field]
    assert words in errors[field]


MANY = {
    "generate": {"scheduler": "DDIMSheduler", "width": 33},
    "train": {"lora_targets": ["to_w"], "validation_prompts": {"source": "no.txt"}},
    "evaluate": {"judge": "nobody", "prompts": {"source": "none.txt"}},
    "rewards": rewards(
        mine={"source": "function_rewards:undeclared", "comparison": None},
        broken={"source": "no_such_module:f"},
    ),
}
ALL = {
    "generate.scheduler", "generate.width", "train.lora_targets", "train.validation_prompts.source",
    "evaluate.prompts.source", "evaluate.judge", "rewards.mine.comparison", "rewards.broken",
}  # fmt: skip


def test_a_run_reports_all_faults_at_once_and_makes_nothing(good, tmp_path):
    with pytest.raises(PreflightError) as error:
        pipeline.run(changed(good, **MANY), tmp_path / "run")
    assert {finding.field for finding in error.value.findings} >= ALL
    assert all(field in str(error.value) for field in ALL)
    assert not (tmp_path / "run").exists()


def test_the_command_lists_all_faults(good, tmp_path):
    (tmp_path / "bad.yaml").write_text(dump_recipe(changed(good, **MANY)))
    result = CliRunner().invoke(app, ["check", str(tmp_path / "bad.yaml"), "--json"])
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert {f["field"] for f in values["findings"] if f["severity"] == "error"} >= ALL
    assert values["stages"][0] == "prompts"
    (tmp_path / "good.yaml").write_text(dump_recipe(parse_recipe(good)))
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "good.yaml"), "--run", str(tmp_path / "run")])
    assert (shown.exit_code, "Nothing would stop the run" in shown.output) == (0, True)


def test_prompts_that_training_saw_are_a_warning(good, tmp_path):
    (tmp_path / "test.txt").write_text(f"{tiny_training.PROMPTS[0]}\nan owl\na hat\n")
    warnings = preflight.check(parse_recipe(good), tmp_path / "run")
    shared = [f.message for f in warnings if (f.field, f.severity) == ("evaluate.prompts", "warning")]
    assert len(shared) == 2
    assert all(message.startswith("1 of 3 prompts") for message in shared)
    assert tiny_training.PROMPTS[0] in shared[0]


def test_captions_of_imported_images_among_the_evaluation_prompts_are_a_warning(good, tmp_path):
    for caption in ("an owl", "a tree"):
        (tmp_path / "own" / caption).mkdir(parents=True)
        (tmp_path / "own" / caption / "0.png").write_bytes(b"not opened")
    values = good | {"prompts": {"source": "images"}, "images": {"source": str(tmp_path / "own")}}
    assert found(parse_recipe(values), tmp_path / "run") == {}
    warnings = found(parse_recipe(values), tmp_path / "run", "warning")
    assert warnings.keys() == {"evaluate.prompts"}
    assert "'an owl'" in warnings["evaluate.prompts"]


def test_a_disk_too_small_for_all_stages_is_found(good, tmp_path, monkeypatch):
    # 88 images of 32² at 1.7 bytes a pixel, 24 latents, the conditioning of 6 prompts, and 3 checkpoints of
    # a rank-2 adapter, its moments included, and the adapter; half of that must be free.
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr("capo.images.disk_space.shutil.disk_usage", lambda _: usage(130_000))
    message = found(parse_recipe(good), tmp_path / "run")["generate.image_format"]
    parts = "images 153 kB, latents 24.6 kB, conditioning 12.7 kB, checkpoints 82.9 kB, policy 18.4 kB"
    assert f"needs about 292 kB ({parts})" in message
    for folder in ("replaced", "tune"):  # other runs' files are none of those that this one needs
        (tmp_path / "run" / folder).mkdir(parents=True)
        (tmp_path / "run" / folder / "file").write_bytes(bytes(300_000))
    assert found(parse_recipe(good), tmp_path / "run")["generate.image_format"] == message
    monkeypatch.setattr("capo.images.disk_space.shutil.disk_usage", lambda _: usage(150_000))
    assert found(parse_recipe(good), tmp_path / "run") == {}


def test_prompts_that_are_cut_are_counted(good, tmp_path):
    (tmp_path / "test.txt").write_text("an owl " * 100 + "\na fish\n")
    warning = found(parse_recipe(good), tmp_path / "run", "warning")["evaluate.prompts"]
    assert warning.startswith("1 of 2 prompts")


def test_a_server_that_is_down_is_a_warning(good, tmp_path):
    url = f"http://127.0.0.1:{closed_port()}"
    section = rewards(mine={"url": url, "comparison": None})
    recipe = changed(good, rewards=section)
    assert found(recipe, tmp_path / "run") == {}
    assert found(recipe, tmp_path / "run", "warning").keys() == {
        "rewards.mine.url", "rewards.mine.comparison",
    }  # fmt: skip


@pytest.mark.parametrize("making", [preflight.ORDER, ["pair"]])
def test_a_reward_that_cannot_be_loaded_is_reported_once(good, tmp_path, making):
    recipe = changed(good, rewards=rewards(mine={"source": "no_such_module:f", "comparison": None}))
    assert set(found(recipe, tmp_path / "run", making=making)) == {"rewards.mine"}


def test_only_the_stages_that_are_left_are_checked(good, tmp_path):
    recipe = changed(good, **MANY)
    fields = set(found(recipe, tmp_path / "run", making=["evaluate"]))
    assert "train.validation_prompts.source" not in fields
    assert fields >= {"evaluate.prompts.source", "evaluate.judge", "rewards.broken", "generate.scheduler"}
    assert set(found(recipe, tmp_path / "run", making=["report"])) == set()


def test_what_only_a_later_stage_needs_of_its_machine_is_a_warning(good, tmp_path):
    recipe = changed(good, engine={"device": "cuda:77"}, evaluate={"judge": "nobody"})
    stages = {"making": ["pair"], "later": ["train", "evaluate"]}
    assert set(found(recipe, tmp_path / "run", **stages)) == {"evaluate.judge"}
    assert set(found(recipe, tmp_path / "run", "warning", **stages)) == {"engine.device"}


def test_with_ray_the_device_is_that_of_the_workers(good, tmp_path):
    engine = {"device": "cuda:77", "executor": "ray", "workers": 1}
    assert "engine.device" not in found(changed(good, engine=engine), tmp_path / "run")


def test_processes_must_share_the_batch_evenly(good, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert set(found(parse_recipe(good), tmp_path / "run", making=["train"])) == {"train.global_batch_size"}


def test_a_shard_of_evaluation_images_too_large_to_read_is_found(good, tmp_path, monkeypatch):
    # 4 images of 32² at 1.7 bytes a pixel are 6,963 bytes a prompt.
    monkeypatch.setattr("capo.images.disk_space.SHARD_BYTES", 14_000)
    recipe = changed(good, generate={"shard_prompts": 2}, evaluate={"samples_per_prompt": 5})
    assert "set it to 1 or less" in found(recipe, tmp_path / "run")["generate.shard_prompts"]


def test_runs_of_a_sweep_repeat_no_warning(tmp_path, monkeypatch):
    findings, said = [], []
    monkeypatch.setattr(preflight, "check", lambda *_: findings)
    monkeypatch.setattr(preflight, "say", said.append)

    def warnings(message):
        said.clear()
        findings[:] = [Finding("prompts", message, "warning")]
        preflight.require(None, tmp_path, [], [])
        return len(said)

    with preflight.warnings_once():
        assert [warnings("few"), warnings("few"), warnings("long")] == [1, 0, 1]
    assert warnings("few") == 1


def test_a_finished_run_checks_nothing(tmp_path, monkeypatch):
    import fake_stages

    fake_stages.install(monkeypatch.setattr)
    recipe = parse_recipe(fake_stages.VALUES)
    pipeline.run(recipe, tmp_path / "run")
    monkeypatch.setattr(preflight, "check", None)
    assert pipeline.check_run(recipe, tmp_path / "run") == ([], [])
    assert all(stage.skipped for stage in pipeline.run(recipe, tmp_path / "run").stages)
    assert Run(tmp_path / "run").artifact("report").done
