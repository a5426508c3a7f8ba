"""Policy and reference: equal at first, a reference that never changes, and files that diffusers reads."""

import shutil
import weakref
from functools import partialmethod

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

import tiny
from capo.diffusion import load_family
from capo.diffusion import policy as policy_module
from capo.diffusion.flow import RectifiedFlow
from capo.diffusion.policy import Policy, load_policy
from capo.diffusion.reference import FrozenCopy, bit_sums
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection, TrainSection
from diffusion_cases import family_of

KINDS = {
    "lora": {"adaptation": "lora", "lora_rank": 2},
    "conv": {
        "adaptation": "lora",
        "lora_rank": 2,
        "lora_alpha": 6.0,
        "lora_targets": ("to_q", "conv1", "conv_shortcut", "proj_in", "time_emb_proj"),
    },
    "dora": {"adaptation": "lora", "lora_rank": 2, "lora_dora": True},
    "full": {"adaptation": "full"},
}
T = torch.tensor([10, 700])


@pytest.fixture(params=KINDS)
def section(request):
    return TrainSection(beta=1.0, **KINDS[request.param])


@pytest.fixture
def conditioning(family):
    return family.encode(["a red circle", "two blue dogs"])


def learn(family, policy, noise, conditioning, steps=2):
    optimizer = torch.optim.AdamW(policy.parameters().values(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.no_grad(), policy.reference():
            family.predict(noise, T, conditioning)
        family.predict(noise, T, conditioning).square().mean().backward()
        optimizer.step()


def test_policy_and_reference_first_agree_bit_for_bit(family, section, noise, conditioning):
    base = family.predict(noise, T, conditioning)
    policy = Policy(family, section, seed=0)
    answer = family.predict(noise, T, conditioning)
    with torch.no_grad(), policy.reference():
        reference = family.predict(noise, T, conditioning)
    assert answer.requires_grad
    assert torch.equal(answer, reference)
    assert torch.equal(reference, base)


def test_training_changes_the_policy_and_never_the_reference(family, section, noise, conditioning):
    base = family.predict(noise, T, conditioning).detach()
    policy = Policy(family, section, seed=0)
    digest = policy.reference_digest()
    before = {name: tensor.clone() for name, tensor in policy.state().items()}
    learn(family, policy, noise, conditioning)
    assert policy.reference_digest() == digest
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning), base)
    assert not torch.equal(family.predict(noise, T, conditioning), base)
    after = policy.state()
    unchanged = [n for n in before if torch.equal(before[n], after[n])]
    assert unchanged == []


def test_the_reference_does_not_depend_on_the_adaptation(sdxl):
    families = [load_family(model(sdxl), torch.device("cpu")) for _ in KINDS]
    digests = {
        Policy(family, TrainSection(beta=1, **kind), 0).reference_digest()
        for family, kind in zip(families, KINDS.values(), strict=True)
    }
    assert len(digests) == 1


def test_frozen_weights_are_hashed_again_only_if_a_bit_has_changed(family, section, monkeypatch):
    hashed = []
    real = policy_module.digest
    monkeypatch.setattr(policy_module, "digest", lambda weights: hashed.append(1) or real(weights))
    policy = Policy(family, section, seed=0)
    first = policy.reference_digest()
    assert policy.reference_digest() == first
    assert len(hashed) == 1
    frozen = policy._reference_weights()
    for name in (min(frozen), max(frozen)):
        frozen[name].data.view(torch.int32).view(-1)[-1] ^= 1
        assert policy.reference_digest() != first
        frozen[name].data.view(torch.int32).view(-1)[-1] ^= 1
        assert policy.reference_digest() == first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(3,), (2, 4), (5, 7), ()])
def test_every_bit_counts_in_the_sum(dtype, shape):
    stored = torch.zeros(256, dtype=torch.uint8)
    length = int(torch.Size(shape).numel()) * dtype.itemsize
    tensor = stored[4 : 4 + length].view(dtype).view(shape)  # not at the start of its storage
    (before,) = bit_sums({"w": tensor})
    stored[4 + length - 1] ^= 128
    assert bit_sums({"w": tensor}) != [before]


def test_the_policy_returns_after_an_error_within_the_reference(family, section, noise, conditioning):
    policy = Policy(family, section, seed=0)
    learn(family, policy, noise, conditioning)
    answer = family.predict(noise, T, conditioning)
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert torch.equal(family.predict(noise, T, conditioning), answer)


def test_only_the_adapter_is_trained(family):
    policy = Policy(family, TrainSection(beta=1, lora_rank=2, lora_targets=("to_q",)), seed=0)
    assert policy.parameters()
    assert all(".to_q.lora_" in name for name in policy.parameters())
    assert {p.dtype for p in policy.parameters().values()} == {torch.float32}


def test_the_adapter_depends_on_the_seed_alone(sdxl):
    section = TrainSection(beta=1, lora_rank=2)
    first, again, other = (
        Policy(load_family(model(sdxl), torch.device("cpu")), section, seed).state() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    different = [name for name in first if not torch.equal(first[name], other[name])]
    assert different == [name for name in first if ".lora_A." in name]


@pytest.mark.parametrize(("target", "hint"), [("to_qq", "did you mean 'to_q'"), ("attn", "no module")])
def test_a_target_without_a_module_is_rejected(family, target, hint):
    with pytest.raises(ValueError, match=f"train.lora_targets: '{target}' .*{hint}"):
        Policy(family, TrainSection(beta=1, lora_targets=("to_k", target)), seed=0)


def test_state_is_copied_exactly(family, sdxl, section, noise, conditioning):
    policy = Policy(family, section, seed=0)
    learn(family, policy, noise, conditioning)
    other_family = load_family(model(sdxl), torch.device("cpu"))
    other = Policy(other_family, section, seed=5)
    other.load_state(policy.state())
    expected = family.predict(noise, T, conditioning)
    assert torch.equal(other_family.predict(noise, T, conditioning), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(min(s)), "missing"),
        (lambda s: s.update(more=torch.ones(1)), "not expected .'more'"),
        (lambda s: s.update({min(s): torch.ones(3)}), r"is \[3\], expected"),
        (lambda s: s.update({min(s): torch.full_like(s[min(s)], torch.nan)}), "not finite"),
    ],
)
def test_state_that_does_not_fit_is_rejected(family, change, message):
    policy = Policy(family, TrainSection(beta=1), seed=0)
    state = policy.state()
    change(state)
    with pytest.raises(ValueError, match=message):
        policy.load_state(state)


def test_plain_diffusers_loads_a_saved_policy(family, sdxl, section, noise, tmp_path):
    conditioning = family.encode(["a red circle", "two blue dogs"])
    policy = Policy(family, section, seed=0)
    learn(family, policy, noise, conditioning)
    policy.save(tmp_path, {"step": 7})
    with quiet():
        if section.adaptation == "lora":
            pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
            pipeline.load_lora_weights(tmp_path)
        else:
            pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path, add_watermarker=False)
    assert pipeline.scheduler.__class__.__name__ == "DDPMScheduler"  # the checkpoint's own
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    settings = GenerateSection(num_inference_steps=3, guidance_scale=5.0)
    expected = family.sample(conditioning, family.unconditional(), noise, settings)
    latents = pipeline(
        ["a red circle", "two blue dogs"],
        latents=noise,
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    if section.lora_alpha is None:
        assert torch.equal(latents, expected)
    else:  # the saved weights contain the scale, here a factor of 3, and are rounded
        torch.testing.assert_close(latents, expected)

    fresh = load_family(model(sdxl), torch.device("cpu"))
    assert load_policy(fresh, tmp_path) == {"step": 7, "adaptation": section.adaptation}
    assert torch.equal(fresh.sample(conditioning, fresh.unconditional(), noise, settings), latents)


def test_the_base_is_dropped_before_a_full_policy_is_loaded(family, tmp_path, settings, noise, monkeypatch):
    """A GPU may not have room for both; a pipeline that was used holds the base too."""
    policy = Policy(family, TrainSection(beta=1.0, adaptation="full"), seed=0)
    policy.save(tmp_path, {})
    del policy
    encoded = family.encode(["a red circle", "two blue dogs"]), family.unconditional()
    expected = family.sample(*encoded, noise, settings)
    base, load = weakref.ref(family.denoiser), family._load_denoiser
    seen = []

    def loading(*arguments):
        seen.append(base())
        return load(*arguments)

    monkeypatch.setattr(family, "_load_denoiser", loading)
    load_policy(family, tmp_path)
    assert seen == [None]
    assert torch.equal(family.sample(*encoded, noise, settings), expected)
    family.save_pipeline(tmp_path / "again")
    StableDiffusionXLPipeline.from_pretrained(tmp_path / "again")


@pytest.mark.parametrize("name", ["sdxl", "sd3", "sana"])
def test_a_full_policy_has_the_tokenizers_of_its_base(checkpoint, name, tmp_path):
    """Whatever was encoded before: padding and truncation are state of a tokenizer."""
    family = family_of(checkpoint(name))
    policy = Policy(family, TrainSection(beta=1.0, adaptation="full"), seed=0)
    for encode in (family.encode, family.truncates):
        encode(["a red circle"])
        policy.save(tmp_path, {})
        for file in checkpoint(name).glob("tokenizer*/tokenizer.json"):
            assert (tmp_path / file.parent.name / file.name).read_bytes() == file.read_bytes()


def test_a_full_policy_is_the_same_wherever_its_base_lies(sdxl, tmp_path):
    saved = []
    for place in ("here", "there"):
        copy = shutil.copytree(sdxl, tmp_path / place / "model")
        policy = Policy(family_of(copy), TrainSection(beta=1.0, adaptation="full"), seed=0)
        policy.save(tmp_path / place / "policy", {})
        files = (tmp_path / place / "policy").rglob("*")
        saved.append({file.name: file.read_bytes() for file in files if file.is_file()})
    assert saved[0] == saved[1]
    assert not any(str(tmp_path).encode() in data for data in saved[0].values())


def test_samples_of_the_reference_are_the_base_models(family, sdxl, section, settings, noise, conditioning):
    base = load_family(model(sdxl), torch.device("cpu"))
    expected = base.sample(conditioning, base.unconditional(), noise, settings)
    policy = Policy(family, section, seed=0)
    learn(family, policy, noise, conditioning)
    tuned = family.sample(conditioning, family.unconditional(), noise, settings)
    with policy.reference():
        assert torch.equal(family.sample(conditioning, family.unconditional(), noise, settings), expected)
    assert not torch.equal(tuned, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_precision_trains_float32_weights_with_equal_numerics(sdxl, kind, noise, settings):
    family = load_family(model(sdxl, dtype="bfloat16"), torch.device("cpu"))
    conditioning = family.encode(["a red circle", "two blue dogs"])
    policy = Policy(family, TrainSection(beta=1.0, **KINDS[kind]), seed=0)
    assert {p.dtype for p in policy.parameters().values()} == {torch.float32}
    answer = family.predict(noise, T, conditioning)
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning), answer)
    learn(family, policy, noise, conditioning)
    assert family.sample(conditioning, family.unconditional(), noise, settings).isfinite().all()


NARROW = TrainSection(beta=1.0, adaptation="full", dtype="bfloat16", reference_dtype="bfloat16")


@pytest.mark.parametrize("name", ["sdxl", "sd3", "pixart"])
def test_a_narrow_reference_takes_half_the_memory_and_predicts_the_same(checkpoint, name, noise):
    family = family_of(checkpoint(name))
    conditioning = family.encode(["a red circle", "two blue dogs"])
    policy = Policy(family, NARROW, seed=0)
    own, copy = (sum(weight.nbytes for weight in network.parameters()) for network in policy.networks())
    assert copy == pytest.approx(own / 2, rel=0.02)
    t = torch.tensor([0.2, 0.8]) if isinstance(family.process, RectifiedFlow) else T
    answer = family.predict(noise, t, conditioning, torch.bfloat16)
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, t, conditioning, torch.bfloat16), answer)


def test_a_narrow_copy_has_the_embeddings_of_its_original():
    """A pass in bfloat16 does not round embeddings."""
    denoiser = torch.nn.Sequential(torch.nn.Embedding(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))
    denoiser.device = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16), FrozenCopy(denoiser, NARROW).ready() as copy:
        assert torch.equal(copy(torch.arange(4)), denoiser(torch.arange(4)))


def model(sdxl, **fields):
    return ModelSection(checkpoint=str(sdxl), **fields)


def test_a_compiled_policy_starts_equal_to_its_reference(noise, tmp_path, monkeypatch):
    """Compiled by all of torch.compile but the last step, which turns the same graph into machine code.

    With gradients, it rounds bfloat16 in other places than without.
    """
    compiled = partialmethod(torch.nn.Module.compile, backend="aot_eager_decomp_partition")
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    with quiet():
        tiny.save(lambda: tiny.sd3(t5=False, num_layers=1), tmp_path)
    section = model(tmp_path, compile=True, max_sequence_length=0)
    check_equal_start(section, noise, adaptation="full")


def test_the_reference_of_a_compiled_adapter_runs_its_code(sdxl, noise):
    with torch.compiler.set_stance("force_eager"):
        check_equal_start(model(sdxl, compile=True), noise, lora_rank=2, lora_dora=True)


def check_equal_start(section, noise, **train):
    family, t = load_family(section, torch.device("cpu")), torch.tensor([0.2, 0.8])
    t = t if isinstance(family.process, RectifiedFlow) else T
    conditioning = family.encode(["a red circle", "two blue dogs"])
    policy = Policy(family, TrainSection(beta=500.0, dtype="bfloat16", **train), seed=0)
    assert family.denoiser._compiled_call_impl is not None

    def both():
        with policy.reference_pass():
            reference = family.predict(noise, t, conditioning, torch.bfloat16)
        assert reference.requires_grad  # without a graph, compiled code would differ
        return reference.detach(), family.predict(noise, t, conditioning, torch.bfloat16)

    reference, prediction = both()
    assert torch.equal(reference, prediction)
    prediction.float().square().mean().backward()
    for parameter in policy.parameters().values():
        parameter.data -= 0.1 * parameter.grad.sign()
    again, moved = both()
    assert torch.equal(again, reference)
    assert not torch.equal(moved, reference)


@pytest.mark.parametrize(("sampling", "training"), [("bfloat16", "float32"), ("float32", "bfloat16")])
@pytest.mark.parametrize("kind", KINDS)
def test_training_may_compute_in_another_precision_than_sampling(
    sdxl, kind, sampling, training, noise, settings
):
    family = load_family(model(sdxl, dtype=sampling), torch.device("cpu"))
    base = load_family(model(sdxl, dtype=sampling), torch.device("cpu"))
    conditioning = family.encode(["a red circle", "two blue dogs"])
    policy = Policy(family, TrainSection(beta=1.0, dtype=training, **KINDS[kind]), seed=0)
    dtype = getattr(torch, training)
    answer = family.predict(noise, T, conditioning, dtype)
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning, dtype), answer)
        images = family.sample(conditioning, family.unconditional(), noise, settings)
    expected = base.sample(conditioning, base.unconditional(), noise, settings)
    torch.testing.assert_close(images, expected, rtol=0, atol=0.05 if sampling == "bfloat16" else 0)
