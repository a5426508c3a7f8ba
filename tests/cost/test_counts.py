"""Counts without weights equal what torch counts while the real tiny models run."""

import json
import shutil

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from capo.cost.peak_memory import allocated_bytes
from capo.cost.plan.counts import count_sampling, count_training
from capo.cost.plan.work_counter import count
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.diffusion.random_weights import RandomWeights
from capo.recipe import parse_recipe
from diffusion_cases import PIPELINES, SHORT, family_of, settings_of

TARGETS = {"sdxl": ["to_q", "to_v"], "sd3": ["to_q", "add_k_proj"]}


def recipe(folder, name, **train):
    return parse_recipe(
        {
            "name": "tiny",
            "model": {"checkpoint": str(folder), **SHORT.get(name, {})},
            "prompts": {"source": "prompts.txt", "count": 10},
            "generate": settings_of(name).model_dump(),
            "rewards": [{"name": "shapes-preference"}],
            "train": {"beta": 1.0, "lora_rank": 2, **train},
            "evaluate": {"prompts": {"source": "shapes:test", "count": 4}},
        }
    )


def counted(work):
    """FLOPs, with attention decomposed into matrix products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def counted_without_attention(work):
    """FLOPs without attention, which stays one kernel that the counter skips."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        work()
    found = counter.get_flop_counts()["Global"]
    return sum(flops for operation, flops in found.items() if "attention" not in str(operation))


@pytest.mark.parametrize("name", PIPELINES)
def test_sampling_is_counted_as_the_real_pipeline_computes(name, checkpoint):
    family, settings = family_of(checkpoint(name), **SHORT.get(name, {})), settings_of(name)
    plan = count_sampling(recipe(checkpoint(name), name))
    # Z-Image reads only the tokens of a prompt; the plan counts as many as a prompt may have.
    prompt = "a long cat" * 7 if name == "z-image" else "a cat"
    conditioning, unconditional = family.encode([prompt]), family.unconditional()
    if name == "z-image":
        unconditional = conditioning
    noise = torch.randn(1, *family.latent_shape(settings))
    latents = []
    sampled = counted(lambda: latents.append(family.sample(conditioning, unconditional, noise, settings)))
    assert plan.image == sampled
    assert plan.decode == counted(lambda: family.decode(latents[0]))
    assert plan.encode == counted(lambda: family.encode([prompt]))
    assert plan.parameters[plan.denoiser] == sum(p.numel() for p in family.denoiser.parameters())
    assert plan.conditioning == sum(tensor.nbytes for tensor in conditioning.values())
    assert (plan.latent, plan.pixels) == (noise.nbytes, 32 * 32)


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@pytest.mark.parametrize("name", TARGETS)
def test_training_is_counted_as_the_real_policy_computes(name, adaptation, checkpoint):
    planned = recipe(checkpoint(name), name, adaptation=adaptation, lora_targets=TARGETS[name])
    plan = count_training(planned)
    family = family_of(checkpoint(name))
    policy = Policy(family, planned.train, seed=0)
    x_t = torch.randn(2, *family.latent_shape(planned.generate))
    conditioning = family.encode(["a cat", "a dog"])

    def predict():
        return family.predict(x_t, torch.tensor([0.5, 0.5] if name == "sd3" else [500, 500]), conditioning)

    with policy.reference(), torch.no_grad():
        reference, attention = counted(predict), counted(predict) - counted_without_attention(predict)
    assert plan.reference.flops == reference
    # A GPU's attention kernel does five matrix products in the backward pass for two in the forward pass.
    rest = counted_without_attention(lambda: predict().square().mean().backward())
    assert plan.policy.flops == rest + 3.5 * attention
    assert plan.trained == sum(p.numel() for p in policy.parameters().values())
    assert plan.policy.flops < plan.checkpointed.flops < plan.policy.flops + 1.3 * plan.reference.flops


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_bytes_are_those_of_the_tensors_that_a_real_network_makes(checkpoint, tmp_path, adaptation):
    """The CPU's attention kernel keeps the same tensors as a GPU's."""
    deep = shutil.copytree(checkpoint("sd3"), tmp_path / "deep")
    config = deep / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 12}))
    planned = recipe(deep, "sd3", adaptation=adaptation, lora_targets=["to_q"])
    plan = count_training(planned)
    family = load_family(planned.model, torch.device("cpu"), RandomWeights(torch.device("cpu")))
    policy = Policy(family, planned.train, seed=0)
    for parameter in policy.parameters().values():  # gradients are counted separately
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    x_t, conditioning = torch.randn(2, *family.latent_shape(planned.generate)), family.encode(["a cat"] * 2)

    def predict():
        return family.predict(x_t, torch.tensor([0.5, 0.5]), conditioning)

    def learn():
        predict().square().mean().backward()

    with torch.no_grad(), policy.reference():
        assert plan.reference.bytes == pytest.approx(allocated_bytes(predict, family.device), rel=0.1)
    assert plan.policy.bytes == pytest.approx(allocated_bytes(learn, family.device), rel=0.1)
    family.denoiser.enable_gradient_checkpointing()
    assert plan.checkpointed.bytes == pytest.approx(allocated_bytes(learn, family.device), rel=0.1)


def test_a_second_order_sampler_calls_the_denoiser_twice_per_step(sdxl):
    planned = recipe(sdxl, "sdxl")
    generate = planned.generate.model_copy(update={"scheduler": "HeunDiscreteScheduler"})
    assert count_sampling(planned).steps == 3
    assert count_sampling(planned.model_copy(update={"generate": generate})).steps == 5


def test_recipes_with_the_same_work_are_counted_once(sdxl):
    planned = recipe(sdxl, "sdxl")
    more = planned.generate.model_copy(update={"samples_per_prompt": 9, "image_format": "jpeg"})
    longer = planned.train.model_copy(update={"steps": 99, "beta": 2.0})
    other = planned.model_copy(update={"seed": 5, "generate": more, "train": longer})
    assert count_sampling(other) is count_sampling(planned)
    assert count_training(other) is count_training(planned)


def test_recipes_with_other_work_are_counted_anew(sdxl):
    planned = recipe(sdxl, "sdxl")
    unguided = planned.generate.model_copy(update={"guidance_scale": 1.0})
    wider = planned.train.model_copy(update={"lora_rank": 4})
    other = planned.model_copy(update={"generate": unguided, "train": wider})
    assert 2 * count_sampling(other).step == count_sampling(planned).step
    assert count_training(other).trained == 2 * count_training(planned).trained


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_work_runs_once_and_composed_operations_are_counted(mode):
    layer, runs = torch.nn.Linear(8, 4, device="meta"), []

    @mode()
    def work():
        runs.append(layer(torch.empty(3, 5, 8, device="meta")))

    assert count(work).flops == 2 * 15 * 8 * 4
    assert len(runs) == 1


def test_no_weights_are_read(sdxl, tmp_path):
    copied = shutil.copytree(sdxl, tmp_path / "sdxl")
    for weights in copied.rglob("*.safetensors"):
        weights.unlink()
    assert count_sampling(recipe(copied, "sdxl")) == count_sampling(recipe(sdxl, "sdxl"))


def test_a_published_model_needs_no_network():
    """Stable Diffusion 1.5 has 859,520,964 parameters and takes 803 GFLOPs for 512² (published figures)."""
    planned = recipe("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15")
    planned = planned.model_copy(
        update={"generate": planned.generate.model_copy(update={"height": None, "width": None})}
    )
    plan = count_sampling(planned)
    assert plan.parameters["unet"] == 859_520_964
    assert plan.step / 2 == pytest.approx(803e9, rel=0.001)


def test_an_unreadable_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^model.checkpoint: .*'nobody/nothing'"):
        count_sampling(recipe("nobody/nothing", "sdxl"))
