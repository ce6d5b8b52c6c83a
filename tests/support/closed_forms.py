"""Data whose diffusion is known in closed form: Gaussian mixtures with means along the axes, and students of them.

A sample has independent elements, each a mixture of Gaussians of one width s. So p_t is a mixture of the same weights,
means cos t m_k and variance cos^2 t s^2 + sin^2 t sigma_d^2; the flow of the PF-ODE keeps each element's distribution
function, f(x_t, t) = Q_0(CDF_t(x_t)). One component is Gaussian data, whose flow is linear.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from scm import trigflow
from scm.objectives.protocol import Batch, Objective

SIGMA_D = 0.5
T_MAX = math.atan(80 / SIGMA_D)


class Data(nn.Module):
    """The distribution, and as a network its exact teacher F = E[v_t | x_t] / sigma_d; label k = component k alone.

    Args:
        weights: of the components.
        means: of the first element; the others have mean 0.
        width: s.
        elements: of a sample, whose shape is [1, 1, elements].
    """

    def __init__(self, weights: tuple[float, ...], means: tuple[float, ...], width: float, elements: int = 2) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.means = torch.zeros(elements, len(means), dtype=torch.float64)
        self.means[0] = torch.tensor(means, dtype=torch.float64)
        self.width, self.settings = width, SimpleNamespace(guidance=False, segments=False)
        self.told: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, **inputs: Tensor) -> Tensor:
        self.told.append(inputs)
        return self.velocity(x * SIGMA_D, t, labels) / SIGMA_D

    def velocity(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[v_t | x_t], the direction of the PF-ODE."""
        cos, sin, variance, off = self._components(x_t, t)
        likely = self._shares(labels) * torch.exp(-(off**2) / (2 * variance))
        each = cos * sin * (SIGMA_D**2 - self.width**2) / variance * off - sin * self.means
        return (likely * each).sum(dim=-1) / likely.sum(dim=-1)

    def density(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of each element."""
        _, _, variance, off = self._components(x_t, t)
        height = torch.exp(-(off**2) / (2 * variance)) / (2 * math.pi * variance) ** 0.5
        return (self._shares(labels) * height).sum(dim=-1)

    def cdf(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        _, _, variance, off = self._components(x_t, t)
        return (self._shares(labels) * 0.5 * (1 + torch.erf(off / (2 * variance) ** 0.5))).sum(dim=-1)

    def flow(self, x_t: Tensor, t: Tensor, to: Tensor, labels: Tensor | None = None) -> Tensor:
        """Where the PF-ODE carries x_t from t to `to`. The last step is Newton's and carries the derivatives."""
        wanted = self.cdf(x_t, t, labels)
        value, end = (getattr(each, "primal", each).detach() for each in (wanted, to))
        low, high = torch.full_like(value, -8), torch.full_like(value, 8)
        for _ in range(40):
            middle = (low + high) / 2
            below = self.cdf(middle, end, labels) < value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found = (low + high) / 2
        found = found - (self.cdf(found, end, labels) - value) / self.density(found, end, labels)
        return found - (self.cdf(found, end, labels) - wanted) / self.density(found, end, labels)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples [count, 1, 1, elements]."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[0], generator=generator, dtype=torch.float64)
        return (self.means.T[which] + self.width * noise).reshape(count, 1, 1, -1)

    def batch(self, count: int = 64, seed: int = 0, labels: Tensor | None = None) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        none = torch.full((count,), -1) if labels is None else labels
        return Batch(self.draw(count, generator), none, generator)

    def at(self, t: Tensor, seed: int = 0) -> Tensor:
        """x_t of one sample for each time."""
        generator = torch.Generator().manual_seed(seed)
        x_0 = self.draw(len(t), generator)
        return trigflow.interpolate(x_0, torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype) * SIGMA_D, t)

    def log_weight(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _components(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """cos t, sin t, the variance, and x_t's distance from each component's mean; [B, 1, 1, elements, K]."""
        t = trigflow.per_sample(t, x_t)[..., None]
        cos, sin = torch.cos(t), torch.sin(t)
        return cos, sin, cos * cos * self.width**2 + sin * sin * SIGMA_D**2, x_t[..., None] - cos * self.means

    def _shares(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            return self.weights
        classes = torch.arange(len(self.weights))
        return torch.where(labels[:, None] < 0, self.weights, (labels[:, None] == classes) + 0.0)[:, None, None, None]


class Student(nn.Module):
    """The exact flow map, bent: f = f* (1 - bend sigma_d sin a), a = t or the time t - s of a jump to the segment s.

    f* is constant along the ODE, so that df/dt = -bend sigma_d cos a f*, and bend = 0 is the fixed point. At a = 0 it
    is the limit, F = E[v_t | x_t] / sigma_d + bend x_t.
    """

    def __init__(self, data: Data, bend: float = 0.0, level: float = 0.0) -> None:
        super().__init__()
        self.data, self.settings = data, SimpleNamespace(guidance=False, segments=False)
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))
        self.level = nn.Parameter(torch.tensor(level, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, segment: Tensor | None = None) -> Tensor:
        x_t, start = x * SIGMA_D, torch.zeros(x.shape[0], dtype=torch.float64) if segment is None else segment
        solution, angle = self.data.flow(x_t, t, start, labels), trigflow.per_sample(t - start, x)
        sin = torch.clamp(torch.sin(angle), 1e-9)  # at t = 0 any finite answer will do
        jump = (torch.cos(angle) * x_t - solution) / (sin * SIGMA_D)
        apart = trigflow.per_sample(getattr(t, "primal", t) > start, x)
        return torch.where(apart, jump, self.data(x, t, labels)) + self.bend * solution

    def log_weight(self, t: Tensor) -> Tensor:
        return self.level.expand_as(t)


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor, end: Tensor, steps: int = 400
) -> Tensor:
    """The ODE dx/dt = velocity(x, t) from start to end by the classical Runge-Kutta method."""
    h, t = (end - start) / steps, start
    step = trigflow.per_sample(h, x)
    for _ in range(steps):
        a = velocity(x, t)
        b = velocity(x + step / 2 * a, t + h / 2)
        c = velocity(x + step / 2 * b, t + h / 2)
        d = velocity(x + step * c, t + h)
        x, t = x + step / 6 * (a + 2 * b + 2 * c + d), t + h
    return x


def pull(objective: Objective, data: Data, bend: float, batches: int, size: int) -> tuple[float, float]:
    """Mean and standard error, over batches, of the loss's gradient by the bend of a `Student`."""
    found = []
    for seed in range(batches):
        student = Student(data, bend)
        objective(student, data.batch(size, seed), 0).value.mean().backward()  # type: ignore[arg-type]
        found.append(student.bend.grad)
    each = torch.stack(found)
    return each.mean().item(), (each.std() / batches**0.5).item()


def gaussian() -> Data:
    return Data((1.0,), (0.2,), 0.3)


def mixture() -> Data:
    return Data((0.3, 0.7), (-0.45, 0.35), 0.2)


DATA = {"gaussian": gaussian, "mixture": mixture}
