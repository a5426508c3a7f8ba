import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from capo.pretrained.model_loading import is_finite, quiet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_element_that_is_not_finite_is_found(dtype, value, place):
    tensor = torch.full((7, 143), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(tensor)
    tensor.view(-1)[place] = value
    assert not is_finite(tensor)


def test_nothing_and_whole_numbers_are_finite():
    assert is_finite(torch.empty(0))
    assert is_finite(torch.tensor([2**62]))


def test_libraries_are_quiet_inside_and_restored_afterwards():
    libraries = (diffusers_logging, transformers_logging)

    def state():
        return [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]

    before = state()
    with quiet():
        assert [shown for _, shown in state()] == [False, False]
    assert state() == before
