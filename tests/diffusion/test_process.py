"""The forward process is that of diffusers' schedulers, and has the paper's numbers for SDXL."""

import pytest
import torch
from diffusers import DDPMScheduler

from capo.diffusion.process import DDPM

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
X, NOISE = (torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
T = torch.tensor([0, 1, 250, 500, 999])


def scheduler(**fields):
    return DDPMScheduler(**{**SDXL, **fields})


def test_noising_is_the_schedulers():
    assert torch.equal(DDPM(scheduler()).noise_to(X, NOISE, T), scheduler().add_noise(X, NOISE, T))


def test_the_target_is_the_noise_or_the_velocity():
    assert torch.equal(DDPM(scheduler()).target(X, NOISE, T), NOISE)
    velocity = DDPM(scheduler(prediction_type="v_prediction"))
    assert torch.equal(velocity.target(X, NOISE, T), scheduler().get_velocity(X, NOISE, T))


def test_another_prediction_type_is_refused():
    with pytest.raises(ValueError, match="predicts 'sample'; training knows epsilon or v_prediction"):
        DDPM(scheduler(prediction_type="sample"))


def test_log_snr_is_that_of_the_schedule():
    """Method §4: λ_0 = 7.069, λ_250 = 0.725, λ_500 = -0.963, λ_999 = -5.364."""
    alphas = scheduler().alphas_cumprod.double()[T]
    found = DDPM(scheduler()).log_snr(T)
    torch.testing.assert_close(found.double(), (alphas / (1 - alphas)).log(), rtol=1e-4, atol=1e-5)
    assert [round(v, 3) for v in found[[0, 2, 3, 4]].tolist()] == [7.069, 0.725, -0.963, -5.364]


def test_weights_at_bias_one_and_a_half():
    """Method §4: 0.0038, 0.6845, 0.9215, 0.9990."""
    weights = DDPM(scheduler()).loss_weight(T, "sigmoid", 1.5)
    assert [round(v, 4) for v in weights[[0, 2, 3, 4]].tolist()] == [0.0038, 0.6845, 0.9215, 0.9990]
    assert DDPM(scheduler()).loss_weight(T, "constant", 1.5).tolist() == [1] * 5


@pytest.mark.parametrize("weighting", ["sigmoid", "constant"])
def test_the_weight_of_v_is_that_of_epsilon_on_its_own_error(weighting):
    """An answer v means ε = α v + σ x_t, and the error of one is α² times that of the other."""
    epsilon, velocity = DDPM(scheduler()), DDPM(scheduler(prediction_type="v_prediction"))
    alpha, sigma = (
        s.sqrt().view(-1, 1, 1, 1) for s in (scheduler().alphas_cumprod[T], 1 - scheduler().alphas_cumprod[T])
    )
    answer_v = velocity.target(X, NOISE, T) + 0.1 * torch.randn_like(X)
    answer_epsilon = alpha * answer_v + sigma * velocity.noise_to(X, NOISE, T)

    def weighted(process, answer):
        error = (answer - process.target(X, NOISE, T)).square().mean((1, 2, 3))
        return process.loss_weight(T, weighting, 1.5) * error

    torch.testing.assert_close(
        weighted(epsilon, answer_epsilon), weighted(velocity, answer_v), rtol=1e-3, atol=1e-6
    )


def test_a_schedule_that_ends_in_pure_noise_has_finite_weights():
    process = DDPM(scheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True))
    assert process.log_snr(T)[-1] < -15
    assert process.loss_weight(T, "sigmoid", 1.5).isfinite().all()


def test_times_are_uniform_over_the_schedule():
    times = DDPM(scheduler()).draw_times(20_000, torch.Generator().manual_seed(0))
    assert times.dtype == torch.int64
    assert (times.min(), times.max()) == (0, 999)
    # Ten bins of 2,000 each, with a standard deviation of 42.
    assert (torch.histc(times.float(), 10, 0, 1000) - 2000).abs().max() < 200
