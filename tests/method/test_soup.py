"""Model soups: Eq. 29 by hand, step by step, and its limit without an arc."""

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from capo.method import slerp, soup_tensors
from capo.method.soup import soup

State = dict[str, Tensor]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def states(count: int, seed: int = 0) -> list[State]:
    """A base and policies with two float tensors and a counter."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "weight": torch.randn(4, 3, generator=generator),
            "bias": torch.randn(3, generator=generator),
            "steps": torch.tensor([7]),
        }
        for _ in range(count)
    ]


def naive_slerp(base: Tensor, first: Tensor, second: Tensor, amount: float) -> Tensor:
    """Eq. 29 as printed."""
    one, two = first - base, second - base
    omega = torch.acos((one * two).sum() / (one.norm() * two.norm()))
    return (
        base
        + torch.sin((1 - amount) * omega) / torch.sin(omega) * one
        + torch.sin(amount * omega) / torch.sin(omega) * two
    )


def test_slerp_by_hand() -> None:
    """Task vectors (2, 0) and (0, 2) around (1, 1) have a right angle, so both shares are sin 45 / sin 90.

    At 1/2 that is (1, 1) + sqrt(1/2) (2, 2); at 1/3 the shares are sin 60 and sin 30.
    """
    base, first, second = vector(1, 1), vector(3, 1), vector(1, 3)
    root = math.sqrt(2)
    torch.testing.assert_close(slerp(base, first, second, 0.5), vector(1 + root, 1 + root))
    torch.testing.assert_close(slerp(base, first, second, 1 / 3), vector(1 + math.sqrt(3), 2))


@given(st.integers(0, 1000), st.floats(0, 1))
def test_slerp_as_printed(seed: int, amount: float) -> None:
    base, first, second = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed)).double()
    torch.testing.assert_close(
        slerp(base, first, second, amount), naive_slerp(base, first, second, amount), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(slerp(base, first, second, amount), slerp(base, second, first, 1 - amount))


def test_slerp_preserves_the_length() -> None:
    """All points on the arc between task vectors of equal length have that length."""
    first, second = vector(3, 4, 0), vector(0, 3, 4)
    for amount in (0.1, 0.5, 0.9):
        assert slerp(torch.zeros(3).double(), first, second, amount).norm().item() == pytest.approx(5)


def test_slerp_reaches_both_ends() -> None:
    base, first, second = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(slerp(base, first, second, 0.0), first)
    torch.testing.assert_close(slerp(base, first, second, 1.0), second)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (vector(2, 0), vector(2, 0), vector(2, 0)),  # the same
        (vector(2, 0), vector(4, 0), vector(2.5, 0)),  # parallel
        (vector(2, 0), vector(-2, 0), vector(1, 0)),  # opposite
        (vector(2, 0), vector(-4, 1e-5), vector(0.5, 2.5e-6)),  # nearly so
        (vector(0, 0), vector(4, 0), vector(1, 0)),  # the first has a zero update
        (vector(4, 0), vector(0, 0), vector(3, 0)),
        (vector(0, 0), vector(0, 0), vector(0, 0)),
    ],
)
def test_slerp_falls_back_to_linear_without_an_arc(first: Tensor, second: Tensor, expected: Tensor) -> None:
    """3/4 of the first and 1/4 of the second."""
    torch.testing.assert_close(slerp(torch.zeros(2).double(), first, second, 0.25), expected)


def test_slerp_tends_to_linear_at_small_angles() -> None:
    """Shares differ from the linear ones by the order of the squared angle."""
    for angle in (1e-2, 1e-5, 1e-9, 1e-200):
        merged = slerp(torch.zeros(2).double(), vector(1, 0), vector(math.cos(angle), math.sin(angle)), 0.25)
        linear = vector(0.75 + 0.25 * math.cos(angle), 0.25 * math.sin(angle))
        torch.testing.assert_close(merged, linear, rtol=0, atol=angle**2)


@given(
    st.lists(st.floats(-1e10, 1e10, width=32), min_size=9, max_size=9),
    st.floats(0, 1),
)
def test_always_finite(values: list[float], amount: float) -> None:
    base, first, second = torch.tensor(values).reshape(3, 3)
    assert slerp(base, first, second, amount).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    """The merge is the exact one rounded once (float32: to its own accuracy)."""
    base, first, second = (torch.randn(3, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    merged = slerp(base, first, second, 0.5)
    assert merged.dtype == dtype
    exact = naive_slerp(base.double(), first.double(), second.double(), 0.5)
    torch.testing.assert_close(merged, exact.to(dtype), rtol=1e-6 if dtype == torch.float32 else 0, atol=1e-6)


def test_soup_of_two_is_slerp_half_way() -> None:
    base, first, second = states(3)
    merged = soup(base, [first, second])
    assert list(merged) == list(base)
    for name in ("weight", "bias"):
        torch.testing.assert_close(merged[name], slerp(base[name], first[name], second[name], 0.5))
    assert merged["steps"].tolist() == [7]


def test_soup_of_more_merges_the_kth_by_one_over_k() -> None:
    base, *policies = states(5)
    merged = soup(base, policies)
    for name in ("weight", "bias"):
        expected = policies[0][name].double()
        for k, policy in enumerate(policies[1:], start=2):
            expected = naive_slerp(base[name].double(), expected, policy[name].double(), 1 / k)
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_global_angle_treats_the_model_as_one_vector() -> None:
    base, *policies = states(4)

    def flat(state: State) -> Tensor:
        return torch.cat([state["weight"].flatten(), state["bias"]]).double()

    merged = soup(base, policies, angle="global")
    twelve = naive_slerp(flat(base), flat(policies[0]), flat(policies[1]), 1 / 2)
    expected = naive_slerp(flat(base), twelve, flat(policies[2]), 1 / 3)
    torch.testing.assert_close(flat(merged), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(merged["bias"], soup(base, policies)["bias"])


def test_linear_by_hand() -> None:
    """Weights 3 and 1 of 4 and 8: 5; uniform: 6."""
    base, first, second = {"w": vector(0)}, {"w": vector(4)}, {"w": vector(8)}
    assert soup(base, [first, second], interpolation="linear", weights=[3, 1])["w"].tolist() == [5.0]
    assert soup(base, [first, second], interpolation="linear")["w"].tolist() == [6.0]


def test_weights_of_slerp_are_its_amounts() -> None:
    """Weights 3, 1 and 4: the second is merged with amount 1/4, then the third with 4/8."""
    base, *policies = states(4)
    merged = soup(base, policies, weights=[3, 1, 4])
    for name in ("weight", "bias"):
        first, second, third = (policy[name] for policy in policies)
        both = naive_slerp(base[name], first, second, 1 / 4)
        torch.testing.assert_close(merged[name], naive_slerp(base[name], both, third, 1 / 2))
    uniform = soup(base, policies, weights=[2, 2, 2])
    assert all(torch.equal(tensor, uniform[name]) for name, tensor in soup(base, policies).items())


def test_a_policy_of_weight_zero_has_no_effect() -> None:
    base, first, second, third = states(4)
    for angle in ("tensor", "global"):
        merged = soup(base, [first, second, third], angle=angle, weights=[0, 0, 5])
        torch.testing.assert_close(merged["weight"], third["weight"])
        merged = soup(base, [first, third, second], angle=angle, weights=[1, 0, 1])
        torch.testing.assert_close(merged["weight"], soup(base, [first, second], angle=angle)["weight"])


def test_the_soup_of_equal_policies_is_the_policy() -> None:
    base, policy = states(2)
    for angle in ("tensor", "global"):
        merged = soup(base, [policy] * 3, angle=angle)
        torch.testing.assert_close(merged["weight"], policy["weight"])


def test_policies_with_zero_or_opposite_updates() -> None:
    """Opposite halves cancel, so a third policy counts a third. Three zero updates give the base."""
    base = {"w": torch.zeros(2)}
    plus, minus, third = {"w": torch.tensor([1.0, 2])}, {"w": torch.tensor([-1.0, -2])}, {"w": torch.ones(2)}
    torch.testing.assert_close(soup(base, [plus, minus, third])["w"], torch.ones(2) / 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # opposite up to rounding: the rest of their sum has no direction
        task = torch.randn(5, generator=generator, dtype=torch.float64)
        opposite = [{"w": 3 * task}, {"w": 0.1 * task - 3.1 * task}, {"w": torch.ones(5).double()}]
        merged = soup({"w": torch.zeros(5).double()}, opposite)
        torch.testing.assert_close(merged["w"], torch.ones(5).double() / 3)
    assert torch.equal(soup(base, [base, base, base])["w"], base["w"])


def test_inputs_are_not_modified() -> None:
    base, first, second = states(3)
    base["weight"].requires_grad_()
    copies = [{name: tensor.clone() for name, tensor in state.items()} for state in (base, first, second)]
    merged = soup(base, [first, second])
    assert not merged["weight"].requires_grad
    for state, copy in zip((base, first, second), copies, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in state)


class Lazy(Mapping[str, Tensor]):
    """A mapping that creates its tensors on access and records the order."""

    def __init__(self, state: State) -> None:
        self.state, self.asked = state, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.state[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@pytest.mark.usefixtures("no_shape_checks")
def test_tensors_are_loaded_one_at_a_time() -> None:
    base, *policies = [Lazy(state) for state in states(3)]
    stream = soup_tensors(base, policies)
    assert [lazy.asked for lazy in (base, *policies)] == [[], [], []]
    assert next(stream)[0] == "weight"
    assert [lazy.asked for lazy in (base, *policies)] == [["weight"]] * 3
    assert [name for name, _ in stream] == ["bias", "steps"]


def test_states_that_do_not_match_are_rejected() -> None:
    base, first, second = states(3)
    lacking = {name: tensor for name, tensor in first.items() if name != "bias"}
    with pytest.raises(ValueError, match="policy 1 lacks tensor 'bias'"):
        soup(base, [second, lacking])
    with pytest.raises(ValueError, match="policy 0 has an unexpected tensor 'bias'"):
        soup(lacking, [first, lacking])
    with pytest.raises(ValueError, match=r"tensor 'bias': shapes differ: base \[3\], policy 0 \[4\]"):
        soup(base, [{**first, "bias": torch.ones(4)}, second])
    with pytest.raises(ValueError, match=r"tensor 'bias': dtypes differ: .* policy 1 torch.float16"):
        soup(base, [first, {**second, "bias": second["bias"].half()}])
    with pytest.raises(ValueError, match="tensor 'steps': policy 1 differs from the base"):
        soup(base, [first, {**second, "steps": torch.tensor([8])}])
    bad = first["weight"].clone()
    bad[2, 1] = math.nan
    for angle in ("tensor", "global"):
        with pytest.raises(ValueError, match=r"tensor 'weight': policy 0\[2, 1\] is nan"):
            soup(base, [{**first, "weight": bad}, second], angle=angle)


def test_overflow_is_an_error() -> None:
    """Halfway along a right angle, both count 0.707: 0.707 (6e4 + 6e4) exceeds float16."""
    base = {"w": torch.zeros(3, dtype=torch.float16)}
    first = {"w": torch.tensor([6e4, 6e4, 0], dtype=torch.float16)}
    second = {"w": torch.tensor([6e4, -3e4, 0.0], dtype=torch.float16)}
    with pytest.raises(ValueError, match=r"tensor 'w': the merged weight\[0\] is inf"):
        soup(base, [first, second])


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_settings_are_rejected() -> None:
    base, first, second = states(3)
    with pytest.raises(ValueError, match="at least two policies, got 1"):
        soup(base, [first])
    with pytest.raises(ValueError, match="2 policies need 2 weights, got 3"):
        soup(base, [first, second], interpolation="linear", weights=[1, 1, 1])
    for weights in ([1, -1], [0, 0], [1, math.nan]):
        with pytest.raises(ValueError, match="weights must be finite, at least 0 and not all 0"):
            soup(base, [first, second], interpolation="linear", weights=weights)
    with pytest.raises(ValueError, match="interpolation must be"):
        soup(base, [first, second], interpolation="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="angle must be"):
        soup(base, [first, second], angle="layer")  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_shape_checks")
def test_slerp_rejects_invalid_inputs() -> None:
    one = torch.ones(2)
    with pytest.raises(ValueError, match=r"amount must be in \[0, 1\], got 1.5"):
        slerp(one, one, one, 1.5)
    with pytest.raises(ValueError, match=r"shapes differ: base \[2\], first \[3\], second \[2\]"):
        slerp(one, torch.ones(3), one, 0.5)
    with pytest.raises(ValueError, match=r"second\[1\] is inf"):
        slerp(one, one, torch.tensor([0.0, math.inf]), 0.5)
    with pytest.raises(ValueError, match=r"floating point, got torch.int64"):
        slerp(one.long(), one.long(), one.long(), 0.5)
