"""Small things that several tests share."""

import dataclasses

import torch
from torch import nn

from scm.networks import Model, NetworkSettings

TINY = NetworkSettings(
    resolution=8, channels=1, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(4,), channels_per_head=8
)


def tiny_model(seed: int = 0, *, dropout: float = 0.0, **changes: object) -> Model:
    """A small network in which nothing is at its zero start; `changes` to its settings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Model(dataclasses.replace(TINY, **changes), dropout=dropout)  # type: ignore[arg-type]
        with torch.no_grad():
            model.weight_linear.weight.normal_(std=0.05)
            for name, parameter in model.named_parameters():
                if name.endswith("gain"):
                    parameter.fill_(0.7)
    return model


class Linear(nn.Module):
    """F(x, t) = exact velocity / sigma_d of N(0, scale^2) data: the network that solves diffusion for Gaussian data.

    x_t ~ N(0, cos^2 scale^2 + sin^2 sigma_d^2), and E[v_t | x_t] = cos sin (sigma_d^2 - scale^2) / variance * x_t.
    """

    def __init__(self, scale: float, sigma_d: float) -> None:
        super().__init__()
        self.scale, self.sigma_d = scale, sigma_d
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        cos, sin = torch.cos(t), torch.sin(t)
        variance = cos * cos * self.scale**2 + sin * sin * self.sigma_d**2
        return self.factor * (cos * sin * (self.sigma_d**2 - self.scale**2) / variance) * x

    def log_weight(self, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(t)
