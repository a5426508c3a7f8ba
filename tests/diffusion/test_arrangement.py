"""Attention backend, memory layout and compilation do not change a denoiser's answers."""

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from diffusion_cases import family_of

PROMPTS = ["a red circle", "two blue dogs"]
TIMES = {"sdxl": torch.tensor([10, 700]), "flux-dev": torch.tensor([0.01, 0.7])}


@pytest.fixture
def predictions(checkpoint, noise):
    """Predictions of a plain family and of one with `fields` in its model section."""

    def run(name, **fields):
        plain, arranged = family_of(checkpoint(name)), family_of(checkpoint(name), **fields)
        conditioning = plain.encode(PROMPTS)
        both = [family.predict(noise, TIMES[name], conditioning).detach() for family in (plain, arranged)]
        return *both, arranged

    return run


@pytest.fixture
def own_backend():
    """Restores the backend, which diffusers keeps for the whole process."""
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


def test_an_attention_backend_is_used(predictions, own_backend):
    plain, arranged, family = predictions("flux-dev", attention="_native_math")
    torch.testing.assert_close(arranged, plain, rtol=1e-4, atol=1e-5)
    backends = {m.processor._attention_backend for m in family.denoiser.modules() if hasattr(m, "processor")}
    assert backends == {AttentionBackendName._NATIVE_MATH}


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("flux-dev", "flsh", r"model.attention: 'flsh' cannot be used here: .* must be one of"),
        ("flux-dev", "xformers", r"model.attention: 'xformers' cannot be used here: "),
        ("sdxl", "native", r"model.attention: .*has no effect on a UNet2DConditionModel"),
    ],
)
def test_an_attention_backend_without_effect_is_rejected(checkpoint, name, backend, message):
    with pytest.raises(ValueError, match=message):
        family_of(checkpoint(name), attention=backend)


def test_a_unet_computes_with_channels_last(predictions):
    plain, arranged, family = predictions("sdxl", channels_last=True)
    assert family.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(arranged, plain, rtol=1e-4, atol=1e-5)


def test_a_transformer_rejects_channels_last(checkpoint):
    with pytest.raises(ValueError, match=r"model.channels_last: .* FluxTransformer2DModel"):
        family_of(checkpoint("flux-dev"), channels_last=True)


def test_a_denoiser_is_compiled_in_place(predictions):
    """Compiling takes a minute on a CPU, so only the names of the weights are tested."""
    with torch.compiler.set_stance("force_eager"):
        plain, arranged, family = predictions("flux-dev", compile=True)
    assert torch.equal(arranged, plain)
    assert family.denoiser._compiled_call_impl is not None
    assert "transformer_blocks.0.attn.to_q.weight" in family.denoiser.state_dict()
