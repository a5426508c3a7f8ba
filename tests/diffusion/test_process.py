"""The forward process is that of diffusers' schedulers, with the paper's numbers for SDXL."""

import pytest
import torch
from diffusers import DDPMScheduler

from capo.diffusion.process import DDPM
from capo.recipe import TrainSection

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
X, NOISE = (torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
T = torch.tensor([0, 1, 250, 500, 999])


PLAIN = TrainSection(beta=1.0)


def scheduler(**fields):
    return DDPMScheduler(**{**SDXL, **fields})


def process(**fields):
    return DDPM(scheduler(**fields).config)


def test_noising_is_the_schedulers():
    assert torch.equal(process().noise_to(X, NOISE, T), scheduler().add_noise(X, NOISE, T))


def test_the_target_is_the_noise_or_the_velocity():
    assert torch.equal(process().target(X, NOISE, T), NOISE)
    velocity = process(prediction_type="v_prediction")
    assert torch.equal(velocity.target(X, NOISE, T), scheduler().get_velocity(X, NOISE, T))


def test_another_prediction_type_is_rejected():
    with pytest.raises(ValueError, match=r"predicts 'sample'.*epsilon or v_prediction"):
        process(prediction_type="sample")


def test_weights_at_bias_one_and_a_half():
    """The values of Sec. 4.4 at timesteps 0, 250, 500 and 999 of SDXL's schedule."""
    weights = process().loss_weight(T, "sigmoid", 1.5)
    assert [round(v, 4) for v in weights[[0, 2, 3, 4]].tolist()] == [0.0038, 0.6845, 0.9215, 0.9990]
    assert process().loss_weight(T, "constant", 1.5).tolist() == [1] * 5


@pytest.mark.parametrize("weighting", ["sigmoid", "constant"])
def test_the_weight_of_v_equals_that_of_epsilon_on_the_converted_error(weighting):
    """A prediction v means ε = α v + σ x_t, so the error of ε is α² times that of v."""
    epsilon, velocity = process(), process(prediction_type="v_prediction")
    alpha, sigma = (
        s.sqrt().view(-1, 1, 1, 1) for s in (scheduler().alphas_cumprod[T], 1 - scheduler().alphas_cumprod[T])
    )
    answer_v = velocity.target(X, NOISE, T) + 0.1 * torch.randn_like(X)
    answer_epsilon = alpha * answer_v + sigma * velocity.noise_to(X, NOISE, T)

    def weighted(ddpm, answer):
        error = (answer - ddpm.target(X, NOISE, T)).square().mean((1, 2, 3))
        return ddpm.loss_weight(T, weighting, 1.5) * error

    torch.testing.assert_close(
        weighted(epsilon, answer_epsilon), weighted(velocity, answer_v), rtol=1e-3, atol=1e-6
    )


def test_a_schedule_that_ends_in_pure_noise_has_finite_weights():
    ending = process(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    weights = ending.loss_weight(T, "sigmoid", 1.5)
    assert weights.isfinite().all()
    assert weights[-1] < 1e-6


def test_times_are_uniform_over_the_schedule():
    times = process().draw_times(20_000, torch.Generator().manual_seed(0), PLAIN)
    assert times.dtype == torch.int64
    assert (times.min(), times.max()) == (0, 999)
    # Ten bins of 2,000 each, with a standard deviation of 42.
    assert (torch.histc(times.float(), 10, 0, 1000) - 2000).abs().max() < 200


def test_times_may_be_restricted_to_those_of_a_distilled_model():
    """SDXL-Turbo has four."""
    section = TrainSection(beta=1.0, timesteps=(249, 499, 749, 999))
    times = process().draw_times(4_000, torch.Generator().manual_seed(0), section)
    values, counts = times.unique(return_counts=True)
    assert values.tolist() == [249, 499, 749, 999]
    assert (counts - 1000).abs().max() < 110  # four standard deviations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timesteps": (0, 1000)}, r"train.timesteps: 1000 is outside .* 0 to 999"),
        ({"time_sampling": "uniform-logsnr"}, "train.time_sampling: uniform-logsnr is for flow models"),
        ({"time_sampling": "logit-normal"}, "train.time_sampling: logit-normal is for flow models"),
    ],
)
def test_times_of_another_kind_are_rejected(fields, message):
    with pytest.raises(ValueError, match=message):
        process().draw_times(1, torch.Generator(), TrainSection(beta=1.0, **fields))
