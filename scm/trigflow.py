"""TrigFlow: the paper's sec. 3 and app. B on one page.

A sample x_0 with standard deviation sigma_d is carried to noise along a quarter circle, x_t = cos t x_0 + sin t z.
The network F predicts the velocity of that path divided by sigma_d, so that input, output and target all have unit
variance.

Shapes: images [B, C, H, W] or any [B, ...]; times [B] in radians, 0 (data) to pi/2 (noise).
"""

import math

import torch
from torch import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes [B] to [B, 1, ..., 1] so that it multiplies each sample of `like`.

    >>> per_sample(torch.ones(8), torch.ones(8, 3, 32, 32)).shape
    torch.Size([8, 1, 1, 1])
    """
    return values.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x_0: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = cos t x_0 + sin t z, with z ~ N(0, sigma_d^2 I) (sec. 3)."""
    t = per_sample(t, x_0)
    return torch.cos(t) * x_0 + torch.sin(t) * z


def velocity(x_0: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """v_t = dx_t/dt = cos t z - sin t x_0, the target of sigma_d F (sec. 3)."""
    t = per_sample(t, x_0)
    return torch.cos(t) * z - torch.sin(t) * x_0


def denoise(x_t: Tensor, t: Tensor, output: Tensor, sigma_d: float) -> Tensor:
    """f(x_t, t) = cos t x_t - sin t sigma_d F: denoiser of a teacher, consistency function of a student (eq. 5).

    f(x, 0) = x whatever the network answers.
    """
    t = per_sample(t, x_t)
    return torch.cos(t) * x_t - torch.sin(t) * sigma_d * output


def propose_times(normal: Tensor, p_mean: float, p_std: float, sigma_d: float) -> Tensor:
    """t = arctan(e^tau / sigma_d), tau ~ N(p_mean, p_std^2): the paper's time proposal (sec. 3; alg. 1).

    Args:
        normal: standard normal draws [B].

    >>> propose_times(torch.tensor([-2.0, 0.0, 2.0]), p_mean=-0.8, p_std=1.6, sigma_d=0.5)
    tensor([0.0366, 0.7321, 1.5255])
    """
    return torch.atan(torch.exp(normal * p_std + p_mean) / sigma_d)


def time_of_sigma(sigma: float, sigma_d: float) -> float:
    """EDM's noise level to TrigFlow's time: t = arctan(sigma / sigma_d) (app. B).

    >>> round(time_of_sigma(80.0, sigma_d=0.5), 4)  # the paper's t_max
    1.5645
    """
    return math.atan(sigma / sigma_d)


def sigma_of_time(t: float, sigma_d: float) -> float:
    """TrigFlow's time to EDM's noise level: sigma = sigma_d tan t. EDM's x_sigma is x_t / cos t.

    >>> round(sigma_of_time(math.pi / 4, sigma_d=0.5), 4)
    0.5
    """
    return sigma_d * math.tan(t)
