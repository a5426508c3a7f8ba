"""The process of a rectified flow is the paper's; its noising and samplers are those of diffusers."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from scipy import stats

from capo.diffusion.flow import SAMPLERS, RectifiedFlow
from capo.recipe import GenerateSection, TrainSection

X, NOISE = (torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
FLOW = RectifiedFlow({"shift": 3.0, "num_train_timesteps": 1000})


def scheduler():
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def test_noising_is_the_schedulers():
    timesteps = scheduler().timesteps[[999, 700, 300, 0]]
    expected = scheduler().scale_noise(X, timesteps, NOISE)
    torch.testing.assert_close(FLOW.noise_to(X, NOISE, timesteps / 1000), expected)


def test_a_scheduler_step_along_the_target_leads_from_noise_to_the_image():
    sampler = scheduler()
    sampler.set_timesteps(1)
    velocity = FLOW.target(X, NOISE, torch.ones(4))
    image = sampler.step(velocity, sampler.timesteps[0], NOISE).prev_sample
    torch.testing.assert_close(image, X)


def test_weights_at_bias_minus_one():
    """1/(e^((λ+1)/2) + e^(-(λ+1)/2)): 1/2 at λ = -1, and 1/(e^(1/2) + e^(-1/2)) = 0.4434 at λ = 0."""
    t = torch.tensor([1 / (1 + math.exp(-0.5)), 0.5, 0.0, 1.0])
    weights = FLOW.loss_weight(t, "sigmoid", -1.0)
    assert weights.tolist() == pytest.approx([0.5, 0.44341, 0, 0], abs=1e-5)
    assert FLOW.loss_weight(t, "constant", -1.0).tolist() == [1] * 4


@pytest.mark.parametrize(
    ("time_sampling", "scale", "distribution"),
    [
        (None, lambda t: 2 * torch.log((1 - t) / t), stats.uniform(-10, 20)),
        ("uniform-logsnr", lambda t: 2 * torch.log((1 - t) / t), stats.uniform(-10, 20)),
        ("uniform", lambda t: t, stats.uniform(0, 1)),
        ("logit-normal", torch.logit, stats.norm(0, 1)),
    ],
)
def test_times_are_distributed_as_their_name_says(time_sampling, scale, distribution):
    section = TrainSection(beta=1.0, time_sampling=time_sampling)
    times = FLOW.draw_times(5_000, torch.Generator().manual_seed(0), section)
    assert stats.kstest(scale(times.double()).numpy(), distribution.cdf).pvalue > 0.01


def test_timesteps_are_rejected():
    with pytest.raises(ValueError, match=r"train.timesteps: only DDPM schedules"):
        FLOW.draw_times(1, torch.Generator(), TrainSection(beta=1.0, timesteps=(1, 2)))


def integrate(sampler, velocity, steps):
    """Integrate `velocity(x, t)` from noise at time 1 to an image at time 0."""
    sampler.set_timesteps(steps)
    x = NOISE
    for timestep in sampler.timesteps:
        x = sampler.step(velocity(x, timestep / 1000), timestep, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_follows_the_flow(name):
    """For Gaussian images of deviation s, the exact flow takes x(1) to s·x(1)."""
    s = 0.5

    def velocity(x, t):  # E[ε - x_0 | x_t] = (t - (1 - t) s²) / (t² + (1 - t)² s²) · x_t
        return (t - (1 - t) * s**2) / (t**2 + (1 - t) ** 2 * s**2) * x

    sampler = FLOW.sampler(GenerateSection(scheduler=name))
    error = (integrate(sampler, velocity, 50) - s * NOISE).norm() / (s * NOISE).norm()
    assert error < 0.06  # of Euler; those of second order are far below


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize(("shift", "expected"), [(None, 3.0), (1.5, 1.5)])
def test_sampling_times_have_the_recipes_shift_or_the_checkpoints(name, shift, expected):
    """t ← s·t / (1 + (s - 1)·t), so the middle of a uniform grid reveals s."""
    sampler = FLOW.sampler(GenerateSection(scheduler=name, shift=shift))
    sampler.set_timesteps(11)
    times = sampler.sigmas[:-1].double()
    uniform = times / (expected - (expected - 1) * times)
    assert uniform.diff().numpy() == pytest.approx(uniform.diff().mean().item(), rel=1e-3)


def test_the_shift_of_the_checkpoints_own_solver_is_kept():
    own = RectifiedFlow({"flow_shift": 2.0, "solver_order": 3, "use_flow_sigmas": True})
    config = own.sampler(GenerateSection(scheduler="DPMSolverMultistepScheduler")).config
    assert (config.flow_shift, config.solver_order, config.prediction_type) == (2.0, 3, "flow_prediction")


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchLCMScheduler"])
def test_a_scheduler_that_cannot_follow_a_flow_is_rejected(name):
    with pytest.raises(ValueError, match=f"generate.scheduler: '{name}' is not a scheduler for this model"):
        FLOW.sampler(GenerateSection(scheduler=name))
