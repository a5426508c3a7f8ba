"""The functions of the method declare the shapes of their tensors, and the tests check these."""

import inspect
from types import UnionType
from typing import get_args, get_origin

import jaxtyping
import pytest
import torch

import capo
from capo import method

FUNCTIONS = {
    function
    for module in (capo, method)
    for function in (getattr(module, name) for name in module.__all__)
    if inspect.isfunction(function) and function.__module__.startswith("capo.method")
}


@pytest.mark.parametrize("function", sorted(FUNCTIONS, key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_every_tensor_has_a_declared_shape(function):
    signature = inspect.signature(function)
    annotations = [*(p.annotation for p in signature.parameters.values()), signature.return_annotation]
    for annotation in annotations:
        alternatives = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
        assert torch.Tensor not in alternatives


def test_declared_shapes_are_checked():
    capo.implicit_reward(torch.ones(2), torch.ones(2), torch.ones(2))
    with pytest.raises(jaxtyping.TypeCheckError, match="reference_error"):
        capo.implicit_reward(torch.ones(2), torch.ones(3), torch.ones(2))
