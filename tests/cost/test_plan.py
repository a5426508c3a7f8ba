"""Hours, memory and disk from counts, worked by hand; and the command."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny_training
from capo.cli import app
from capo.cost.gpus import GIB, GPUS, find_gpu
from capo.cost.plan import plan_run
from capo.cost.plan.counts import count_sampling, count_training
from capo.cost.plan.disk import disk
from capo.cost.plan.memory_needs import fitting_pairs, generate_memory, train_memory
from capo.cost.plan.notes import notes
from capo.cost.plan.scoring_work import score_flops
from capo.cost.plan.wall_clock import wall_clock
from capo.cost.plan.work import PromptCounts, stages
from capo.recipe import RewardSection, parse_recipe
from synthetic_counts import FULL, SAMPLING, TERA

LORA = replace(FULL, trained=10**7)
PROMPTS = PromptCounts(train=100, validation=10, evaluate=20)


def recipe(train=None, **sections):
    return parse_recipe(
        {
            "name": "plan",
            "model": {"checkpoint": "nowhere", "dtype": "bfloat16"},
            "prompts": {"source": "prompts.txt"},
            "generate": {"samples_per_prompt": 4, "image_format": "webp"},
            "rewards": [{"name": "mine", "source": "my.rewards:score", "comparison": "bradley-terry"}],
            "train": {
                "beta": 1.0,
                "steps": 100,
                "global_batch_size": 8,
                "validate_every": 40,
                "validation_prompts": {"source": "validation.txt"},
                "checkpoint_every": 10,
                **(train or {}),
            },
            "evaluate": {"prompts": {"source": "test.txt"}, "samples_per_prompt": 2},
            **sections,
        }
    )


def hours(train=None):
    found = stages(recipe(train), PROMPTS, SAMPLING, FULL, GPUS["h100"], 0.4)
    return {stage.name: stage for stage in found}


def test_hours_follow_from_the_work_and_the_share_of_the_peak():
    found = hours()
    # 400 images of 50 steps of 10 TFLOP and 100 prompts in bf16; as many VAE passes in TF32.
    bf16, tf32 = 400 * 500 + 100, 400 * 5
    assert found["generate"].flops == (bf16 + tf32) * TERA
    assert found["generate"].hours == pytest.approx((bf16 / 989 + tf32 / 495) / 0.4 / 3600)
    assert found["train"].flops == 100 * 8 * (2 + 6) * TERA
    assert found["train"].hours == pytest.approx(100 * 8 * 8 / (989 * 0.4) / 3600)
    # The base once, then steps 40, 80 and 100: 4 x 10 prompts x 4 images.
    assert found["validation"].flops == 160 * 505 * TERA + 40 * TERA
    # Base, tuned and the base again: 3 x 20 prompts x 2 images.
    assert found["evaluate"].flops == 120 * 505 * TERA + 60 * TERA
    assert found["score"].flops == 0


def times(gpus, price=None, **train):
    settings = recipe(train, generate={"samples_per_prompt": 4, "shard_prompts": 4})
    found = stages(settings, PROMPTS, SAMPLING, FULL, GPUS["h100"], 0.4)
    on_one = {stage.name: stage.hours for stage in found}
    return on_one, {time.stage: time for time in wall_clock(settings, PROMPTS, found, gpus, price)}


def test_shards_and_pairs_are_what_gpus_share():
    on_one, on_eight = times(8, price=2.0)
    # 25 shards of prompts: 8, 8, 8, 1.
    assert on_eight["generate"].hours == pytest.approx(on_one["generate"] * 4 / 25)
    assert on_eight["generate"].busy == pytest.approx(25 / 32)
    # 8 pairs of a step, one for each GPU.
    assert on_eight["train"].hours == pytest.approx(on_one["train"] / 8)
    assert (on_eight["train"].busy, on_eight["train"].limit) == (1, "")
    # 10 prompts are 3 shards, once for the base and three times for the policy: 5 GPUs are idle.
    assert on_eight["validation"].hours == pytest.approx(on_one["validation"] / 3)
    assert on_eight["validation"].limit == "3 shards, 4 times one after another"
    assert times(8, global_batch_size=1)[1]["train"].limit == "1 pair per step"
    # Three models of 5 shards.
    assert on_eight["evaluate"].hours == pytest.approx(on_one["evaluate"] * 2 / 15)
    # All GPUs are paid for, idle or not.
    assert on_eight["validation"].cost == pytest.approx(on_one["validation"] / 3 * 8 * 2)


def test_one_gpu_takes_the_gpu_hours():
    on_one, alone = times(1)
    assert {name: time.hours for name, time in alone.items()} == pytest.approx(on_one)
    assert all((time.busy, time.limit, time.cost) == (1, "", None) for time in alone.values())


def test_training_uses_as_many_gpus_as_divide_the_batch():
    on_one, on_six = times(6)
    assert on_six["train"].hours == pytest.approx(on_one["train"] / 4)
    assert on_six["train"].busy == pytest.approx(4 / 6)
    assert "8 pairs per step" in on_six["train"].limit
    with pytest.raises(ValueError, match="--gpus"):
        times(0)


def test_a_gpu_in_two_sizes_names_both():
    with pytest.raises(ValueError, match="a100-80gb or a100-40gb"):
        find_gpu("A100")


def test_checkpointing_computes_the_forward_pass_again():
    assert hours({"gradient_checkpointing": True})["train"].flops == 100 * 8 * (2 + 8) * TERA


def test_unknown_prompt_counts_are_excluded_and_noted():
    unknown = PromptCounts(train=None, validation=None, evaluate=20)
    found = stages(recipe(), unknown, SAMPLING, FULL, GPUS["h100"], 0.4)
    assert [stage.name for stage in found] == ["train", "evaluate"]
    remarks = notes(recipe(), unknown, SAMPLING, FULL, GPUS["h100"], {"generate": {}, "train": {}})
    for remark, words in zip(
        remarks,
        (["prompts.txt", "prompts.count"], ["validation.txt", "train.validation_prompts.count"], ["mine"]),
        strict=False,
    ):
        assert all(word in remark for word in words)


def test_prompts_of_a_folder_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("capo.cost.plan.count_sampling", lambda _: SAMPLING)
    monkeypatch.setattr("capo.cost.plan.count_training", lambda _: LORA)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"caption {name}", encoding="utf-8")
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    counted = plan_run(recipe(prompts={"source": str(tmp_path)}), "h100", 0.4).prompts
    assert (counted.train, counted.evaluate) == (3, None)


def test_external_images_are_noted_and_need_no_prompt_count():
    imported = recipe(images={"source": "hub:someone/pairs"}, prompts={"source": "images"})
    prompts = replace(PROMPTS, train=None)
    remarks = notes(imported, prompts, SAMPLING, FULL, GPUS["h100"], {"generate": {}, "train": {}})
    assert "hub:someone/pairs" in remarks[0]
    assert not any("prompts.count" in remark for remark in remarks)


def test_adaptive_sampling_is_counted_at_its_maximum_and_noted():
    adaptive = recipe(generate={"samples_per_prompt": 4, "adaptive": {"first": 2}})
    most = recipe().generate.samples_per_prompt
    planned, fixed = (
        stages(each, PROMPTS, SAMPLING, FULL, GPUS["h100"], 0.4) for each in (adaptive, recipe())
    )
    assert [each.flops for each in planned] == [each.flops for each in fixed]
    images = f"{2 * PROMPTS.train:,} to {most * PROMPTS.train:,} images"
    assert all(each.what.startswith(images) for each in planned[:2])
    memory = {"generate": {}, "train": {}}
    remarks = notes(adaptive, PROMPTS, SAMPLING, FULL, GPUS["h100"], memory)
    assert f"2 to {most} samples per prompt" in remarks[0]


def test_memory_of_full_fine_tuning_by_part():
    parts = train_memory(recipe({"adaptation": "full", "ema_decay": 0.9}), SAMPLING, FULL)
    assert parts == {
        "denoiser": 4 * 10**9,
        "reference": 4 * 10**9,
        "bfloat16 copies of the weights": 2 * 10**9,
        "gradients": 4 * 10**9,
        "optimizer": 8 * 10**9,
        "moving average": 4 * 10**9,
        "text encoders and VAE, for validation": 4 * 10**8,
        "activations, 8 pairs": 32 * 10**9,
    }


def test_memory_of_lora_by_part():
    settings = {"per_device_batch_size": 2, "gradient_checkpointing": True, "validation_prompts": None}
    assert train_memory(recipe(settings), SAMPLING, LORA) == {
        "denoiser": 2 * 10**9,
        "adapter": 4 * 10**7,
        "gradients": 4 * 10**7,
        "optimizer": 8 * 10**7,
        "activations, 2 pairs": 2 * 10**9,
    }


def test_memory_saving_settings_reduce_the_estimate():
    settings = {"adaptation": "full", "validation_prompts": None, "per_device_batch_size": 1}
    settings |= {"reference_dtype": "bfloat16", "optimizer": "adamw-8bit"}
    parts = train_memory(recipe(settings), SAMPLING, FULL)
    assert (parts["reference"], parts["optimizer"]) == (2 * 10**9, 2 * 10**9)
    offloaded = train_memory(recipe({**settings, "reference_offload": True}), SAMPLING, FULL)
    assert "reference" not in offloaded
    checkpointed = {**settings, "reference_offload": True, "gradient_checkpointing": True}
    assert train_memory(recipe(checkpointed), SAMPLING, FULL)["reference and its pass, 1 pair"] == 21 * 10**8
    assert offloaded["activations, 1 pair"] == 4 * 10**9  # more than the reference and its pass together


def test_memory_of_generating_grows_with_the_batch():
    parts = generate_memory(recipe(generate={"batch_size": 3}).generate, SAMPLING)
    assert parts == {**SAMPLING.weights, "sampling 3 images": 3 * 10**8, "decoding 1 image": 10**9}


def test_the_largest_fitting_batch_is_suggested():
    full = recipe({"adaptation": "full", "validation_prompts": None})
    # 22 GB plus 4 GB per pair: 90% of 80 GiB (77 GB) holds 8 pairs, 90% of 40 GiB (39 GB) holds 4.
    assert fitting_pairs(full, SAMPLING, FULL, 80 * GIB) == 8
    assert fitting_pairs(full, SAMPLING, FULL, 40 * GIB) == 4
    assert fitting_pairs(full, SAMPLING, FULL, 24 * GIB) == 0
    memory = {"generate": {}, "train": {}}
    fits_with_4 = notes(full, PROMPTS, SAMPLING, FULL, GPUS["a100-40gb"], memory)[-1]
    assert "train.per_device_batch_size=4" in fits_with_4
    never_fits = notes(full, PROMPTS, SAMPLING, FULL, GPUS["rtx4090"], memory)[-1]
    assert "24 GiB of the RTX 4090" in never_fits
    assert "train.gradient_checkpointing=true" in never_fits


def test_disk_by_artifact():
    assert disk(recipe({"adaptation": "full"}), PROMPTS, SAMPLING, FULL) == {
        "samples: images": pytest.approx(400 * 10_000 * 0.4),
        "samples: latents": 400 * 100,
        "samples: conditioning": 100 * 1000,
        "scores": 400 * 12,
        "pairs": 400 * 2 * 8,
        "train: checkpoints": 4 * 10**9 * 12,
        "train: best": 2 * (10**9 + 10**8),
        "train: validation images": pytest.approx(160 * 10_000 * 0.4),
        "evaluate: images": pytest.approx(120 * 10_000 * 0.4),
    }


def test_known_rewards_are_counted():
    """2 FLOPs a weight and token: 6.7 billion weights of Llama 7B, 616 tokens; 632 million of ViT-H, 257."""
    assert score_flops(RewardSection(name="vqascore")) == pytest.approx(2 * 6.6e9 * 616, rel=0.1)
    assert score_flops(RewardSection(name="pickscore")) == pytest.approx(
        2 * 632e6 * 257 + 2 * 302e6 * 77, rel=0.1
    )
    pinned = RewardSection(name="pickscore", checkpoint="yuvalkirstain/PickScore_v1@v1")
    assert score_flops(pinned) == score_flops(RewardSection(name="pickscore"))
    assert score_flops(RewardSection(name="shapes-heldout")) > 0
    assert score_flops(RewardSection(name="mine", source="my.rewards:score")) is None
    assert score_flops(RewardSection(name="pickscore", checkpoint="other/weights")) is None
    assert score_flops(RewardSection(name="pickscore", command=("score",))) is None


@pytest.mark.parametrize(
    ("name", "weights_and_tokens"),
    [
        ("mps", [(632e6, 257), (302e6, 77), (119e6, 257)]),
        ("clipscore", [(303e6, 257), (85e6, 77)]),
        ("laion-aesthetic", [(303e6, 257)]),
        ("aesthetic-v2.5", [(412e6, 730)]),
        ("imagereward", [(303e6, 197), (85e6 + 28e6, 25)]),
        ("vqascore-qwen3-vl", [(412e6, 4097), (7.0e9, 1064)]),
        ("vqascore-clip-flant5-xl", [(303e6, 577), (1.2e9, 656)]),
        ("vqascore-clip-flant5-xxl", [(303e6, 577), (4.7e9, 656)]),
        ("hpsv3", [(632e6, 1025), (6.5e9, 881)]),
    ],
)
def test_large_rewards_take_two_flops_per_weight_and_token(name, weights_and_tokens):
    """For the published sizes without embeddings; attention adds some, most for many patches."""
    expected = sum(2 * weights * tokens for weights, tokens in weights_and_tokens)
    assert expected < score_flops(RewardSection(name=name)) < 1.35 * expected


def test_an_unknown_gpu_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'h10'.*h200, h100, .*did you mean 'h100'"):
        find_gpu("h10")
    with pytest.raises(ValueError, match=r"--utilization: .*40"):
        plan_run(recipe(), "h100", 40)


def test_the_command_prints_tables_or_json(tmp_path, sdxl, monkeypatch):
    settings = tiny_training.recipe(tmp_path, sdxl)
    sampling, training = count_sampling(settings), count_training(settings)  # once for all commands
    monkeypatch.setattr("capo.cost.plan.count_sampling", lambda _: sampling)
    monkeypatch.setattr("capo.cost.plan.count_training", lambda _: training)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings.model_dump(mode="json")), encoding="utf-8")
    runner = CliRunner()
    shown = runner.invoke(app, ["plan", str(path), "--gpu", "rtx4090", "--utilization", "0.5"])
    assert shown.exit_code == 0
    assert "RTX 4090" in shown.output
    assert "50%" in shown.output
    assert "24 images, 3 steps" in shown.output
    values = json.loads(runner.invoke(app, ["plan", str(path), "--json"]).output)
    assert values["gpu"]["name"] == "H100 SXM"
    assert [stage["name"] for stage in values["stages"]] == ["generate", "score", "train", "evaluate"]
    assert values["sampling"]["parameters"]["unet"] == sum(
        tensor.numel() for tensor in _weights(sdxl / "unet").values()
    )
    assert runner.invoke(app, ["plan", str(path), "--gpu", "abacus"]).exit_code == 1
    priced = ["plan", str(path), "--gpus", "4", "--price", "2.5"]
    assert "Wall-clock hours on 4" in runner.invoke(app, priced).output
    values = json.loads(runner.invoke(app, [*priced, "--json"]).output)
    assert values["cost"] == pytest.approx(values["wall_clock_hours"] * 4 * 2.5)


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")
