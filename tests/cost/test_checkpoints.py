import pytest
import torch

from capo.cost.bench.subject import subject
from capo.cost.checkpoints import write_checkpoint
from capo.diffusion import load_family
from capo.diffusion.random_weights import RandomWeights
from capo.recipe import GenerateSection, ModelSection

META = torch.device("meta")


@pytest.mark.parametrize("name", ["tiny-sd15", "tiny-sd35", "tiny-flux"])
def test_a_tiny_architecture_runs(name, tmp_path):
    with subject(name, None, []) as what, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        family = what.family(what.recipe.model)
        shape = family.latent_shape(what.recipe.generate)
        conditioning = family.encode(["a red Cat", "two dogs"])
        x_t, t = torch.zeros(2, *shape), torch.tensor([0, 0])
        answer = family.predict(x_t, t, conditioning)
    assert shape[1:] == ((8, 8) if name == "tiny-sd15" else (16, 16))
    assert answer.shape == x_t.shape
    assert answer.isfinite().all()
    assert not any(torch.equal(tensor[0], tensor[1]) for tensor in conditioning.values())


@pytest.mark.parametrize(
    ("name", "shape"), [("sd15", (4, 64, 64)), ("sdxl", (4, 128, 128)), ("sd3", (16, 128, 128))]
)
def test_a_real_architecture_takes_no_memory_on_the_meta_device(name, shape, tmp_path):
    write_checkpoint(name, tmp_path)
    section = ModelSection(checkpoint=str(tmp_path), dtype="bfloat16")
    family = load_family(section, META, RandomWeights(META))
    assert family.latent_shape(GenerateSection()) == shape
    assert {(p.device.type, p.dtype) for p in family.denoiser.parameters()} == {("meta", torch.bfloat16)}


def test_missing_weights_are_rejected_unless_random_ones_are_requested(tmp_path):
    write_checkpoint("tiny-sd15", tmp_path)
    with pytest.raises(ValueError, match=r"no safetensors weights"):
        load_family(ModelSection(checkpoint=str(tmp_path)), torch.device("cpu"))


def test_an_unknown_architecture_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'sdxxl'.*sd15, sdxl"):
        write_checkpoint("sdxxl", tmp_path)
