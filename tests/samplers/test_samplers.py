"""Samplers against golden figures of EDM's program, exact solutions and each other."""

import json
import math
from pathlib import Path

import pytest
import torch

from scm import trigflow
from scm.generation.generate import asked_labels, generate
from scm.generation.sampler import consistency_sampler, ddim_sampler, heun_sampler, t_max_of
from scm.samplers import SampleNoise, consistency, ddim, edm_sigmas, heun
from tests.support.models import Linear, tiny_model

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "edm2.json").read_text())
SIGMA_D, SCALE = 0.5, 0.3


def test_noise_levels_are_edms():
    assert edm_sigmas(5, 0.002, 80.0, 7.0)[:-1] == pytest.approx(GOLDEN["edm_t_steps_5"], rel=1e-12)
    assert edm_sigmas(5, 0.002, 80.0, 7.0)[-1] == 0


@pytest.mark.parametrize("steps", [4, 8, 18, 32, 64])
def test_heun_is_edms(steps):
    """EDM's sampler with the exact denoiser of N(0, 0.5^2), where F = 0, from x = 1 (times sigma_max)."""
    result = heun(
        lambda x, t: torch.zeros_like(x),
        torch.ones(1, 1, dtype=torch.float64),
        edm_sigmas(steps, 0.002, 80.0, 7.0),
        0.5,
    )
    assert result.item() == pytest.approx(GOLDEN["heun_gaussian_sd.5"][str(steps)], rel=1e-9)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2)])
def test_ode_samplers_converge_to_the_exact_flow_with_their_order(sampler, order):
    """On N(0, s^2) data the flow from t_max to 0 multiplies x by s / sqrt(cos^2 s^2 + sin^2 sigma_d^2)."""
    t_max, function = t_max_of(80.0, SIGMA_D), Linear(SCALE, SIGMA_D)
    noise = torch.ones(1, 1, dtype=torch.float64)

    def error(steps: int) -> float:
        if sampler == "ddim":
            result = ddim(function, noise, [t_max * (1 - i / steps) for i in range(steps + 1)], SIGMA_D)
            start, t = SIGMA_D, t_max
        else:
            result = heun(function, noise, edm_sigmas(steps, 0.002, 80.0, 7.0), SIGMA_D)
            start, t = 80.0 * math.cos(t_max), t_max
        deviation = math.sqrt(math.cos(t) ** 2 * SCALE**2 + math.sin(t) ** 2 * SIGMA_D**2)
        return abs(result.item() - start * SCALE / deviation)

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.25)
    assert error(128) < 0.01


def test_consistency_sampling_renoises_with_fresh_noise():
    """With f = 0.1 x_t at every time, two steps from z, z' give 0.1 (cos t 0.1 z + sin t z')."""

    def function(x, t):
        """cos t x - sin t sigma_d F = 0.1 x."""
        return (torch.cos(t) - 0.1)[:, None] / torch.sin(t)[:, None] * x

    first = torch.randn(2, generator=torch.Generator().manual_seed(7)) * SIGMA_D
    result = consistency(function, SampleNoise([7], [2]), [1.5, 1.1], SIGMA_D)[0]
    draws = torch.Generator().manual_seed(7)
    z, fresh = torch.randn(2, generator=draws) * SIGMA_D, torch.randn(2, generator=draws) * SIGMA_D
    assert torch.equal(z, first)
    assert torch.allclose(result, 0.1 * (math.cos(1.1) * 0.1 * z + math.sin(1.1) * fresh), atol=1e-6)


def test_samples_do_not_depend_on_the_batch():
    model, labels = tiny_model(), torch.arange(10) % 3
    for sampler in (heun_sampler(3, 0.002, 80.0, 7.0, SIGMA_D), consistency_sampler([1.56, 1.1], SIGMA_D)):
        whole, _ = generate(model, sampler, range(5, 15), labels, [1, 8, 8], batch=10, device="cpu")
        parts, _ = generate(model, sampler, range(5, 15), labels, [1, 8, 8], batch=3, device="cpu")
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-3)
        assert not torch.allclose(whole[0], whole[3], atol=1e-2)


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        (heun_sampler(18, 0.002, 80.0, 7.0, SIGMA_D), 35),  # CIFAR-10's teacher in the paper
        (heun_sampler(32, 0.002, 80.0, 7.0, SIGMA_D), 63),  # ImageNet's
        (ddim_sampler([1.56, 0.8, 0.0], SIGMA_D), 2),
        (consistency_sampler([1.56, 1.1], SIGMA_D), 2),
    ],
)
def test_network_evaluations_are_counted_right(sampler, evaluations):
    calls = []

    def function(x, t):
        calls.append(float(t[0]))
        return torch.zeros_like(x)

    sampler.run(function, SampleNoise([1, 2], [1, 4, 4]))
    assert len(calls) == sampler.nfe == evaluations
    assert all(0 < t < math.pi / 2 for t in calls)


def test_a_model_that_diverged_is_named():
    from scm.errors import UserError

    model = tiny_model()
    with torch.no_grad():
        model.network.out_gain.fill_(float("nan"))
    with pytest.raises(UserError, match="4 of 4 samples are not finite: the training diverged"):
        generate(
            model,
            consistency_sampler([1.56], SIGMA_D),
            range(4),
            torch.zeros(4, dtype=torch.int64),
            [1, 8, 8],
            2,
            "cpu",
        )


def test_the_first_draw_is_plain_seeded_noise():
    noise = SampleNoise([3, 4], [2, 2])
    first = noise.draw()
    assert torch.equal(first[1], torch.randn(2, 2, generator=torch.Generator().manual_seed(4)))
    assert not torch.equal(noise.draw(), first)
    assert trigflow.time_of_sigma(80, SIGMA_D) == t_max_of(80, SIGMA_D)


@pytest.mark.parametrize("count", [10, 30, 100, 250])
def test_labels_are_asked_in_the_real_proportions(count):
    """Also where there are fewer samples than images and these are sorted by class, as folders give them."""
    real = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    for order in (torch.arange(100), torch.randperm(100, generator=torch.Generator().manual_seed(0))):
        shares = torch.bincount(asked_labels(real[order], count), minlength=3) / count
        assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2])
