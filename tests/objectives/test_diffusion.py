"""TrigFlow's diffusion loss against the closed form on Gaussian data."""

import math

import pytest
import torch

from scm import trigflow
from scm.objectives.diffusion import Diffusion, drop_labels
from scm.objectives.protocol import Batch
from tests.support.models import Linear, tiny_model

SIGMA_D, SCALE = 0.5, 0.3


def batch(count: int) -> Batch:
    draws = torch.Generator().manual_seed(0)
    x_0 = torch.randn(count, 4, generator=draws, dtype=torch.float64) * SCALE
    return Batch(x_0, torch.zeros(count, dtype=torch.int64), draws)


def test_the_exact_velocity_on_gaussian_data_is_the_minimum():
    """The expected gradient at E[v_t | x_t] is zero, and the loss there is the conditional variance of v_t."""
    model = Linear(SCALE, SIGMA_D)
    losses = Diffusion(SIGMA_D, p_mean=-0.8, p_std=1.0)(model, batch(100_000), 0)
    gradient = torch.autograd.grad(losses.value.mean(), model.factor)[0].item()
    sin, cos = torch.sin(losses.t), torch.cos(losses.t)
    expected = (SCALE * SIGMA_D) ** 2 / (cos**2 * SCALE**2 + sin**2 * SIGMA_D**2)
    assert losses.value.mean().item() == pytest.approx(expected.mean().item(), rel=0.01)
    with torch.no_grad():
        model.factor.fill_(1.5)
    off = Diffusion(SIGMA_D, p_mean=-0.8, p_std=1.0)(model, batch(100_000), 0)
    slope = torch.autograd.grad(off.value.mean(), model.factor)[0].item()
    assert abs(gradient) < 0.02 * slope
    assert off.value.mean() > losses.value.mean()


def test_the_loss_by_its_formula():
    """exp(w) / D ||sigma_d F - v_t||^2 - w, with labels dropped after the noise is drawn; and its figures."""
    model, batches = tiny_model(1).double(), []
    for _ in range(2):
        draws = torch.Generator().manual_seed(0)
        x_0 = torch.randn(8, 1, 8, 8, generator=draws, dtype=torch.float64) * SIGMA_D
        batches.append(Batch(x_0, torch.arange(8) % 3, draws))
    losses = Diffusion(SIGMA_D, p_mean=-0.8, p_std=1.0, label_dropout=0.5)(model, batches[0], 0)
    t = trigflow.propose_times(batches[1].normal(), -0.8, 1.0, SIGMA_D)
    z, (cos, sin) = batches[1].normal(1, 8, 8) * SIGMA_D, (angle[:, None, None, None] for angle in (t.cos(), t.sin()))
    labels = drop_labels(batches[1], 0.5)
    assert (labels == -1).any() and (labels >= 0).any()
    output = model((cos * x_0 + sin * z) / SIGMA_D, t, labels)
    squared = (SIGMA_D * output - (cos * z - sin * x_0)).square().sum(dim=(1, 2, 3)) / 64
    w = model.log_weight(t)
    assert w.abs().min() > 1e-3 and torch.equal(losses.t, t)
    assert torch.allclose(losses.value, w.exp() * squared - w, rtol=0, atol=1e-12)
    figures = {
        "squared_error": squared / SIGMA_D**2,
        "output_norm": output.square().sum(dim=(1, 2, 3)).sqrt() / 8,
        "log_weight": w,
    }
    assert losses.figures.keys() == figures.keys()
    for name, values in figures.items():
        assert torch.allclose(losses.figures[name], values, rtol=0, atol=1e-12), name


def test_dropped_labels_are_the_wanted_fraction():
    assert (drop_labels(batch(20_000), 0.1) == -1).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_labels(batch(8), 0.0), batch(8).labels)


def test_ranks_draw_parts_of_one_batch():
    whole = batch(8)
    expected = whole.normal(3)
    parts = []
    for rank in range(2):
        draws = torch.Generator().manual_seed(0)
        torch.randn(8, 4, generator=draws, dtype=torch.float64)
        part = Batch(whole.x_0[rank * 4 : rank * 4 + 4], whole.labels[:4], draws, rank, world=2)
        parts.append(part.normal(3))
    assert torch.equal(torch.cat(parts), expected)
    assert math.isfinite(expected.sum())
