"""Log-SNRs and weights: the published SDXL numbers, both signs, inverses and extremes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo.method import ddpm_log_snr, flow_log_snr, flow_sigmoid_weight, flow_time, sigmoid_weight

log_snrs = st.floats(-30, 30).map(lambda value: torch.tensor([value], dtype=torch.float64))
biases = st.sampled_from([-2.0, -1.0, 0.0, 1.5])


def sdxl_alphas_cumprod() -> torch.Tensor:
    """SDXL's schedule (App. A.3): betas squared-linear from 0.00085 to 0.012 in 1,000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def test_sdxl_schedule() -> None:
    log_snr = ddpm_log_snr(sdxl_alphas_cumprod())[[0, 250, 500, 999]]
    assert log_snr.tolist() == pytest.approx([7.069, 0.725, -0.963, -5.364], abs=6e-4)
    assert sigmoid_weight(log_snr, 1.5).tolist() == pytest.approx([0.0038, 0.6845, 0.9215, 0.9990], abs=6e-5)
    single = ddpm_log_snr(sdxl_alphas_cumprod().float())
    torch.testing.assert_close(single.double(), ddpm_log_snr(sdxl_alphas_cumprod()), atol=2e-4, rtol=0)


def test_ddpm_log_snr_by_hand() -> None:
    """0.75 / 0.25 = 3; 0.5 / 0.5 = 1; a schedule that ends in pure noise."""
    log_snr = ddpm_log_snr(torch.tensor([0.75, 0.5, 0.0]))
    assert log_snr.tolist() == [pytest.approx(math.log(3)), 0.0, -math.inf]
    assert sigmoid_weight(log_snr[2:], 1.5).item() == 1.0


def test_sigmoid_weight_by_hand() -> None:
    """b - lambda = log 3: 3/4. At the bias 1/2."""
    weight = sigmoid_weight(torch.tensor([1.5 - math.log(3), 1.5]), 1.5)
    torch.testing.assert_close(weight, torch.tensor([0.75, 0.5]))


@given(log_snrs, biases)
def test_sigmoid_weight_falls_as_inputs_get_cleaner(log_snr: torch.Tensor, bias: float) -> None:
    """The weight of Sec. 4.4; Eq. 24 as printed would increase."""
    assert sigmoid_weight(log_snr + 0.5, bias) < sigmoid_weight(log_snr, bias)


def test_flow_weight_by_hand() -> None:
    """z = 2 log 2: 1 / (2 + 1/2) = 0.4, both sides of the bias; 1/2 at it."""
    weight = flow_sigmoid_weight(torch.tensor([-1 + 2 * math.log(2), -1 - 2 * math.log(2), -1.0]), -1.0)
    torch.testing.assert_close(weight, torch.tensor([0.4, 0.4, 0.5]))


@given(log_snrs, biases)
def test_flow_weight_as_printed_and_as_a_sigmoid(log_snr: torch.Tensor, bias: float) -> None:
    """Eq. 26 in its printed form, and sigmoid(b - lambda) e^(lambda / 2) = e^(b / 2) w."""
    z = log_snr.item() - bias
    weight = flow_sigmoid_weight(log_snr, bias)
    assert weight.item() == pytest.approx(1 / (math.exp(z / 2) + math.exp(-z / 2)))
    carried = sigmoid_weight(log_snr, bias) * (log_snr / 2).exp()
    torch.testing.assert_close(carried, math.exp(bias / 2) * weight)


def test_flow_time_by_hand() -> None:
    """t = 1/4: 2 log 3; t = 1/2: 0."""
    torch.testing.assert_close(flow_log_snr(torch.tensor([0.25, 0.5])), torch.tensor([2 * math.log(3), 0.0]))
    torch.testing.assert_close(flow_time(torch.tensor([2 * math.log(3), 0.0])), torch.tensor([0.25, 0.5]))


@given(log_snrs)
def test_flow_time_and_log_snr_are_inverse(log_snr: torch.Tensor) -> None:
    torch.testing.assert_close(flow_log_snr(flow_time(log_snr)), log_snr, atol=1e-8, rtol=1e-8)


@given(log_snrs)
def test_flow_time_satisfies_the_definition(log_snr: torch.Tensor) -> None:
    """alpha = 1 - t and sigma = t: log(alpha^2 / sigma^2) is the log-SNR."""
    t = flow_time(log_snr).item()
    assert math.log(((1 - t) / t) ** 2) == pytest.approx(log_snr.item(), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes(dtype: torch.dtype) -> None:
    ends = torch.tensor([-200.0, 200.0], dtype=dtype, requires_grad=True)
    assert sigmoid_weight(ends, 1.5).tolist() == pytest.approx([1.0, 0.0], abs=1e-30)
    assert flow_sigmoid_weight(ends, -1.0).tolist() == pytest.approx([0.0, 0.0], abs=1e-30)
    assert flow_time(ends).tolist() == pytest.approx([1.0, 0.0], abs=1e-30)
    total = sigmoid_weight(ends, 1.5) + flow_sigmoid_weight(ends, -1.0) + flow_time(ends)
    (gradient,) = torch.autograd.grad(total.sum(), ends)
    assert gradient.isfinite().all()
    assert flow_log_snr(torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == [math.inf, -math.inf]


@pytest.mark.usefixtures("no_shape_checks")
def test_dtypes() -> None:
    for function in (flow_time, flow_log_snr, ddpm_log_snr):
        assert function(torch.full((2, 3), 0.5, dtype=torch.bfloat16)).dtype == torch.float32
        assert function(torch.full((2, 3), 0.5, dtype=torch.float64)).dtype == torch.float64
        assert function(torch.full((2, 3), 0.5)).shape == (2, 3)
        with pytest.raises(ValueError, match=r"must be floating point, got torch.int64"):
            function(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="log_snr must be floating point"):
        sigmoid_weight(torch.ones(3, dtype=torch.int64), 0.0)


def test_values_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"t\[1\] is 1.5, but must be in \[0, 1\]"):
        flow_log_snr(torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"alphas_cumprod\[0\] is -0.5"):
        ddpm_log_snr(torch.tensor([-0.5, 0.5]))
    with pytest.raises(ValueError, match=r"t\[0\] is nan"):
        flow_log_snr(torch.tensor([math.nan]))
