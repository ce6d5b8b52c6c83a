"""Both terms of df/dt of a diffusion model (fig. 4)."""

import math

import pytest
import torch

from scm import trigflow
from scm.jvp import output_and_tangent
from scm.objectives.diffusion import Diffusion
from scm.training import loop
from scm.training.health import BINS
from scm.training.record import METRICS
from scm.training.stability import Stability, terms_of_change
from tests.support.closed_forms import DATA, SIGMA_D
from tests.support.loops import ALONE, Digits, equal, result, settings
from tests.support.models import tiny_model


@pytest.mark.parametrize("name", DATA)
def test_terms_are_the_changes_of_f_by_the_path_and_by_the_time(name):
    """Against differences of f: x_t moved along the ODE at a fixed t, and t alone at a fixed x_t."""
    data = DATA[name]()
    draws = torch.Generator().manual_seed(0)
    x_t = torch.randn(16, 1, 1, 2, dtype=torch.float64, generator=draws) * SIGMA_D
    t = torch.linspace(0.05, 1.5, 16, dtype=torch.float64)

    def f(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return trigflow.denoise(x, time, data(x / SIGMA_D, time), SIGMA_D)

    by_path, by_time = terms_of_change(data, x_t, t, SIGMA_D)
    step, direction = 1e-6, data.velocity(x_t, t)
    along = (f(x_t + step * direction, t) - f(x_t - step * direction, t)) / (2 * step)
    later = (f(x_t, t + step) - f(x_t, t - step)) / (2 * step)
    torch.testing.assert_close(by_path, along, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(by_time, later, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("changes", [{}, {"c_noise": "log_sigma", "embedding": "fourier", "fourier_scale": 16.0}])
def test_the_terms_of_a_network_sum_to_the_derivative_along_the_ode(changes):
    """Against scm.jvp's tangent along the trajectory, in one pass."""
    model = tiny_model(**changes).double().eval()
    x_t, t = Digits(16).batch_at(0)[0].double(), torch.linspace(0.1, 1.5, 16, dtype=torch.float64)
    labels = torch.arange(16) % 3
    by_path, by_time = terms_of_change(lambda x, time: model(x, time, labels), x_t, t, 0.5)
    with torch.no_grad():
        direction = 0.5 * model(x_t / 0.5, t, labels)
        _, tangent = output_and_tangent(
            lambda x, time: trigflow.denoise(x, time, model(x / 0.5, time, labels), 0.5),
            (x_t, t), (direction, torch.ones_like(t)),
        )  # fmt: skip
    torch.testing.assert_close(by_path + by_time, tangent, rtol=1e-8, atol=1e-9)


def test_a_teachers_training_has_the_same_bits_with_it_and_its_terms_in_each_bin(tmp_path):
    data = Digits(16)
    measured = Stability(data, 0, 0.5)
    for name, probe in (("with", measured), ("without", None)):
        arguments = (settings(), tmp_path / name, ALONE, lambda: False, lambda text: None, None, probe)
        loop.Trainer(tiny_model(dropout=0.2), Diffusion(0.5, -0.8, 1.6), data, *arguments).run()
    assert equal(result(tmp_path / "with"), result(tmp_path / "without"))
    assert "path_term/0" in (tmp_path / "with" / METRICS).read_text()
    model = tiny_model()
    figures = measured(model, {name: value.detach() for name, value in model.named_parameters()})
    assert figures.keys() == {f"{term}/{k}" for term in ("path_term", "time_term") for k in range(BINS)}
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
