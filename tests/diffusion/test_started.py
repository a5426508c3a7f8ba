"""A policy that continues a saved one, with that one or the base as its reference."""

import pytest
import torch

from capo.diffusion import load_family
from capo.diffusion.policy import Policy, load_policy
from capo.recipe import ModelSection, TrainSection

KINDS = {
    "lora": {"adaptation": "lora", "lora_rank": 2, "lora_alpha": 6.0},
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


@pytest.fixture
def saved(sdxl, section, noise, conditioning, tmp_path):
    """The folder of a policy that has learned something."""
    family = fresh(sdxl)
    policy = Policy(family, section, seed=0)
    learn(family, policy, noise, conditioning)
    folder = tmp_path / "best"
    folder.mkdir()
    policy.save(folder, {})
    return folder


def fresh(sdxl, **fields):
    return load_family(ModelSection(checkpoint=str(sdxl), **fields), torch.device("cpu"))


def learn(family, policy, noise, conditioning):
    optimizer = torch.optim.AdamW(policy.parameters().values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        answer = family.predict(noise, T, conditioning)
        with torch.no_grad(), policy.reference():  # between a pass and its gradient, which is not to notice
            family.predict(noise, T, conditioning)
        answer.square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("reference", ["base", "start"])
def test_it_starts_as_the_saved_policy_with_the_chosen_reference(
    sdxl, family, section, saved, noise, conditioning, reference
):
    base = family.predict(noise, T, conditioning)
    before = fresh(sdxl)
    load_policy(before, saved)
    started = before.predict(noise, T, conditioning).detach()
    assert not torch.allclose(started, base, atol=1e-3)

    policy = Policy(family, section, 1, saved, reference)
    digest = policy.reference_digest()
    answer = family.predict(noise, T, conditioning)
    with torch.no_grad(), policy.reference():
        measured = family.predict(noise, T, conditioning)
    if section.lora_alpha is None:
        assert torch.equal(answer, started)
    else:  # the saved weights contain the scale, here a factor of 3, and are rounded
        torch.testing.assert_close(answer, started)
    expected = base if reference == "base" else answer
    assert torch.equal(measured, expected), "so the margin of step 0 is 0 with reference start"

    learn(family, policy, noise, conditioning)
    assert policy.reference_digest() == digest
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning), expected)
    assert not torch.equal(family.predict(noise, T, conditioning), started)
    policy.reset()
    assert torch.equal(family.predict(noise, T, conditioning), answer)


def test_the_gradient_does_not_depend_on_when_the_reference_ran(sdxl, section, saved, noise, conditioning):
    gradients = []
    for between in (False, True):
        family = fresh(sdxl)
        policy = Policy(family, section, 0, saved, "start")
        answer = family.predict(noise, T, conditioning)
        if between:
            with torch.no_grad(), policy.reference():
                family.predict(noise, T, conditioning)
        answer.square().mean().backward()
        gradients.append([parameter.grad for parameter in policy.parameters().values()])
    assert all(map(torch.equal, *gradients))


def test_different_references_have_different_digests(sdxl, section, saved):
    digests = {
        (start is None, reference): Policy(fresh(sdxl), section, 0, start, reference).reference_digest()
        for start, reference in ((None, "base"), (saved, "base"), (saved, "start"))
    }
    assert digests[True, "base"] == digests[False, "base"]
    assert digests[False, "start"] != digests[False, "base"]


def test_both_agree_bit_for_bit_in_a_narrow_model(sdxl, section, saved, noise, conditioning):
    family = fresh(sdxl, dtype="bfloat16")
    policy = Policy(family, section, 0, saved, "start")
    before = {name: tensor.clone() for name, tensor in policy.state().items()}
    answer = family.predict(noise, T, conditioning)
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning), answer)
    learn(family, policy, noise, conditioning)
    policy.reset()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state().items())


@pytest.mark.parametrize("section", ["full"], indirect=True)
def test_a_narrow_copy_does_not_affect_a_reset(sdxl, saved, section, noise, conditioning):
    narrow = section.model_copy(update={"reference_dtype": "bfloat16", "dtype": "bfloat16"})
    family = fresh(sdxl)
    policy = Policy(family, narrow, 0, saved, "start")
    before = {name: tensor.clone() for name, tensor in policy.state().items()}
    answer = family.predict(noise, T, conditioning, torch.bfloat16)
    with torch.no_grad(), policy.reference():
        assert torch.equal(family.predict(noise, T, conditioning, torch.bfloat16), answer)
    policy.reset()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state().items())


@pytest.mark.parametrize("section", ["lora", "dora"], indirect=True)
def test_weights_of_another_network_are_rejected(sdxl, saved, section):
    other = section.model_copy(update={"lora_rank": 3})
    with pytest.raises(ValueError, match="weights of another model"):
        Policy(fresh(sdxl), other, 0, saved)
