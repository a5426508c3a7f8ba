import pytest
import torch

from capo.engine.model_loading import is_finite


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
