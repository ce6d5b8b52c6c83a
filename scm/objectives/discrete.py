"""Discrete-time consistency distillation (app. E): the tangent is a difference between two points of a grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm import trigflow
from scm.objectives.consistency import Function, Inputs, Tangent
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch, length_of_each, on_device
from scm.samplers.ode import edm_sigmas


def time_grid(points: int, sigma_min: float, sigma_max: float, rho: float, sigma_d: float) -> tuple[float, ...]:
    """0 = t_0 < t_1 < ... < t_N: EDM's N noise levels as times, radians (app. E)."""
    sigmas = edm_sigmas(points, sigma_min, sigma_max, rho)
    return tuple(trigflow.time_of_sigma(sigma, sigma_d) for sigma in reversed(sigmas))


def discrete_tangent(
    function: Function,
    x_t: Tensor,
    t: Tensor,
    earlier: Tensor,
    dx_dt: Tensor,
    sigma_d: float,
    r: float,
    roundoff: float = 0.0,
) -> Tangent:
    """F_theta and g, which equals cos t (f(x_t, t) - f(x_t', t')) / sin(t - t') at r = 1 (app. E).

    x_t' lies one DDIM step from x_t. Dropout drops the same units in both evaluations of the network.

    Args:
        earlier: t' < t, the previous point of the grid, [B].
        dx_dt: sigma_d F_teacher, [B, C, H, W].
        roundoff: relative error of one evaluation of F. The figure `rounding` is what becomes of it in g: the division
            by sin(t - t') makes it grow with the number of points.
    """
    before = trigflow.per_sample(earlier, x_t)
    step = trigflow.per_sample(t, x_t) - before
    x_earlier = torch.cos(step) * x_t - torch.sin(step) * dx_dt
    asked = torch.where(earlier > 0, earlier, t)  # sin t' = 0 cancels the output; ln tan 0 is infinite
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # pyright: ignore[reportUnknownMemberType]
        output_earlier = function(x_earlier / sigma_d, asked)
    output = function(x_t / sigma_d, t)
    now = output.detach()
    slope = (torch.cos(step) * now - output_earlier) / torch.sin(step)
    cos = torch.cos(trigflow.per_sample(t, x_t))
    first = -cos * torch.cos(before) * (sigma_d * now - dx_dt)
    second = -r * cos * torch.sin(before) * (x_t + sigma_d * slope)
    error = roundoff * torch.cos(t) * torch.sin(earlier) / torch.sin(t - earlier) * sigma_d * length_of_each(now)
    return Tangent(output, first + second, first, second, {"rounding": error})


@dataclass(frozen=True, kw_only=True)
class DiscreteDistillation(Distillation):
    """sCD with differences on a grid in place of the derivative.

    Attributes:
        grid: `time_grid`. Each proposed time moves up to the next point of the grid, so a point has the probability
            of the interval below it.
        roundoff: relative rounding error of F in the format that the network computes in.
    """

    grid: tuple[float, ...]
    roundoff: float = 0.0

    def times(self, batch: Batch) -> Tensor:
        grid = self._grid(batch.x_0)
        return grid[self._upper(super().times(batch), grid)]

    def tangent_of(
        self, function: Function, x_t: Tensor, t: Tensor, inputs: Inputs, direction: Tensor, r: float
    ) -> Tangent:
        grid = self._grid(x_t)
        earlier = grid[self._upper(t, grid) - 1]
        return discrete_tangent(function, x_t, t, earlier, direction, self.sigma_d, r, self.roundoff)

    def _grid(self, like: Tensor) -> Tensor:
        return on_device(self.grid, like.dtype, like.device)

    def _upper(self, t: Tensor, grid: Tensor) -> Tensor:
        """Index, at least 1, of the first point of the grid at or above t; the last index if t lies beyond."""
        return torch.searchsorted(grid, t.contiguous()).clamp(1, len(grid) - 1)
