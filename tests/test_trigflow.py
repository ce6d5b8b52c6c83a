"""Identities of sec. 3 and app. B, in float64."""

import math

import pytest
import torch

from scm import trigflow

SIGMA_D = 0.5


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    x_0, z = torch.randn(2, 4, 3, 8, 8, generator=draws, dtype=torch.float64) * SIGMA_D
    return x_0, z, torch.tensor([0.01, 0.4, 1.1, 1.56], dtype=torch.float64)


def test_the_velocity_is_the_time_derivative_of_the_path(sample):
    x_0, z, t = sample
    _, derivative = torch.func.jvp(lambda time: trigflow.interpolate(x_0, z, time), (t,), (torch.ones_like(t),))
    assert torch.allclose(derivative, trigflow.velocity(x_0, z, t), atol=1e-12)


def test_the_exact_velocity_gives_back_the_clean_sample(sample):
    x_0, z, t = sample
    x_t, output = trigflow.interpolate(x_0, z, t), trigflow.velocity(x_0, z, t) / SIGMA_D
    assert torch.allclose(trigflow.denoise(x_t, t, output, SIGMA_D), x_0, atol=1e-12)


def test_at_time_zero_the_consistency_function_is_the_identity(sample):
    x_0, z, t = sample
    assert torch.equal(trigflow.denoise(x_0, torch.zeros_like(t), 1e6 * z, SIGMA_D), x_0)


def test_edm_and_trigflow_denoise_alike(sample):
    """EDM's D(x; sigma) = c_skip x + c_out F_edm(c_in x), F_trig = -F_edm, is f(x_t, t) at x_t = cos t x (app. B)."""
    x_0, z, t = sample
    sigma = SIGMA_D * torch.tan(t)[:, None, None, None]
    x_sigma = x_0 + sigma * z / SIGMA_D
    root = (sigma**2 + SIGMA_D**2).sqrt()
    c_skip, c_out, c_in = SIGMA_D**2 / root**2, sigma * SIGMA_D / root, 1 / root

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x) + 0.2

    edm = c_skip * x_sigma + c_out * network(c_in * x_sigma)
    x_t = torch.cos(t)[:, None, None, None] * x_sigma
    assert torch.allclose(x_t, trigflow.interpolate(x_0, z, t), atol=1e-12)
    assert torch.allclose(x_t / SIGMA_D, c_in * x_sigma, atol=1e-12)
    assert torch.allclose(trigflow.denoise(x_t, t, -network(x_t / SIGMA_D), SIGMA_D), edm, atol=1e-12)


def test_edms_weighted_loss_is_trigflows(sample):
    """EDM's lambda(sigma) ||D - x_0||^2 = ||sigma_d F - v_t||^2 / sigma_d^2 (app. B)."""
    x_0, z, t = sample
    output = torch.randn_like(x_0)
    x_t, sigma = trigflow.interpolate(x_0, z, t), SIGMA_D * torch.tan(t)
    weight = (sigma**2 + SIGMA_D**2) / (sigma * SIGMA_D) ** 2
    edm = weight * (trigflow.denoise(x_t, t, output, SIGMA_D) - x_0).square().sum(dim=(1, 2, 3))
    ours = (SIGMA_D * output - trigflow.velocity(x_0, z, t)).square().sum(dim=(1, 2, 3)) / SIGMA_D**2
    assert torch.allclose(edm, ours, rtol=1e-9)


def test_times_follow_the_proposal():
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = trigflow.propose_times(normal, p_mean=-0.8, p_std=1.6, sigma_d=SIGMA_D)
    tau = torch.log(SIGMA_D * torch.tan(t))
    assert tau.mean().item() == pytest.approx(-0.8, abs=0.02)
    assert tau.std().item() == pytest.approx(1.6, abs=0.02)


def test_noise_levels_and_times_are_each_others_inverse():
    assert trigflow.time_of_sigma(80.0, SIGMA_D) == pytest.approx(1.56454, abs=1e-5)  # the paper's t_max
    assert trigflow.sigma_of_time(trigflow.time_of_sigma(3.7, SIGMA_D), SIGMA_D) == pytest.approx(3.7)
    assert trigflow.time_of_sigma(SIGMA_D, SIGMA_D) == pytest.approx(math.pi / 4)
