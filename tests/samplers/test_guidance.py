"""Guidance in sampling: the formula, its limits, and samplers of guided teachers and students."""

import math
from types import SimpleNamespace

import pytest
import torch

from scm.generation.generate import conditioned, generate
from scm.generation.sampler import heun_sampler, multistep_sampler
from scm.samplers import SampleNoise, consistency, ddim, edm_sigmas, guided, heun
from tests.support.closed_forms import SIGMA_D, T_MAX, Data, integrate, mixture
from tests.support.models import tiny_model

LABELS = torch.tensor([0, 1, 2, -1])


def test_guidance_by_its_formula_in_one_evaluation():
    """F_uncond + s (F_cond - F_uncond) with a scale for each sample; without a label nothing changes."""
    model, calls = tiny_model(1).double(), []
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, scale = torch.tensor([[0.2, 0.6, 1.0, 1.4], [0.0, 1.0, 2.5, 3.0]], dtype=torch.float64)

    def counted(x, t, labels):
        calls.append(len(x))
        return model(x, t, labels)

    with torch.no_grad():
        found = guided(counted, x, t, LABELS, scale)
        conditional, without = model(x, t, LABELS), model(x, t, None)
    assert calls == [8]
    assert torch.allclose(found[0], without[0], rtol=0, atol=1e-12)  # s = 0
    assert torch.allclose(found[1], conditional[1], rtol=0, atol=1e-12)  # s = 1
    assert torch.allclose(found[2], without[2] + 2.5 * (conditional - without)[2], rtol=0, atol=1e-12)
    assert torch.allclose(found[3], conditional[3], rtol=0, atol=1e-12)  # no label
    assert (found[2] - conditional[2]).abs().max() > 0.01


def test_a_second_network_guides_by_its_formula():
    """F_guide + s (F - F_guide) in float64, whatever the guide's size; without a label as well."""
    model, guide = tiny_model(1).double(), tiny_model(2, width=16, classes=0).double()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, scale = torch.tensor([[0.2, 0.6, 1.0, 1.4], [0.0, 1.0, 2.5, 3.0]], dtype=torch.float64)
    with torch.no_grad():
        own, base = model(x, t, LABELS), guide(x, t, None)
        model.guide = guide
        found, plain = guided(model, x, t, LABELS, scale), conditioned(model, LABELS, 1.0)(x, t)
    assert torch.allclose(found, base + scale[:, None, None, None] * (own - base), rtol=0, atol=1e-12)
    assert torch.allclose(found[0], base[0], rtol=0, atol=1e-12)  # s = 0
    assert torch.allclose(found[1], own[1], rtol=0, atol=1e-12)  # s = 1
    assert torch.equal(plain, own)  # the sampler leaves the guide out
    assert (found[3] - own[3]).abs().max() > 0.01


def test_a_guide_that_sees_no_label_is_classifier_free_guidance():
    model = tiny_model(1).double()
    x, t = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0.2, 0.6, 1.0, 1.4], dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.5, 3.0], dtype=torch.float64)

    class Pair:
        guide = staticmethod(lambda x, t, labels: model(x, t, None))

        def __call__(self, x, t, labels):
            return model(x, t, labels)

    with torch.no_grad():
        by_itself, by_a_guide = (guided(each, x, t, LABELS, scale) for each in (model, Pair()))
    assert torch.allclose(by_itself, by_a_guide, rtol=0, atol=1e-12)


def test_a_guided_teacher_leads_its_classes_apart():
    """Scale 1 gives the class, 0 the mixture, and above 1 samples lie further from the other class."""
    data, noise = mixture(), torch.randn(400, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(400) % 2

    def means(scale: float) -> tuple[float, float]:
        function = conditioned(data, labels, scale)
        samples = ddim(function, noise, [T_MAX * (1 - i / 60) for i in range(61)], SIGMA_D)[:, 0, 0, 0]
        return samples[labels == 0].mean().item(), samples[labels == 1].mean().item()

    both = 0.3 * -0.45 + 0.7 * 0.35
    assert means(1.0) == pytest.approx((-0.45, 0.35), abs=0.05)
    assert means(0.0) == pytest.approx((both, both), abs=0.08)
    low, high = means(2.0)
    assert low < -0.5 and high > 0.38


def test_the_sampler_of_a_guided_teacher_solves_its_ode():
    """Heun's method, of second order, tends to Runge-Kutta's solution of dx/dt = the guided velocity."""
    data, labels = mixture(), torch.tensor([0, 1, 1, -1])
    noise = torch.randn(4, 1, 1, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def velocity(x, t):
        without = data.velocity(x, t)
        return without + 2.0 * (data.velocity(x, t, labels) - without)

    start = torch.full((4,), math.atan(5.0 / SIGMA_D), dtype=torch.float64)
    x = noise * 5.0 * torch.cos(start)[:, None, None, None]  # EDM's x_sigma = x_t / cos t
    exact = integrate(velocity, x, start, torch.zeros(4, dtype=torch.float64), 100)

    def error(steps: int) -> float:
        found = heun(conditioned(data, labels, 2.0), noise, edm_sigmas(steps, 0.002, 5.0, 7.0), SIGMA_D)
        return (found - exact).norm().item()

    assert error(200) < 1e-3 and error(50) / error(100) == pytest.approx(4, abs=1)


class Student:
    """Remembers what it is told."""

    settings = SimpleNamespace(guidance=True, segments=True)

    def __init__(self) -> None:
        self.told = []

    def __call__(self, x, t, labels, *, guidance=None, segment=None):
        self.told.append((t[0].item(), guidance, segment, labels))
        return torch.zeros_like(x)


def test_a_student_is_told_the_scale_and_nothing_is_added():
    """It jumps to the data where the sampler names no other time."""
    student = Student()
    function = conditioned(student, LABELS, 1.7)
    consistency(function, SampleNoise(range(4), [1, 2, 2]), [1.5, 1.1], SIGMA_D)
    assert [told[0] for told in student.told] == pytest.approx([1.5, 1.1])
    for _, guidance, segment, labels in student.told:
        assert guidance.tolist() == pytest.approx([1.7] * 4) and segment.tolist() == [0.0] * 4
        assert labels is LABELS
    student.told.clear()
    multistep_sampler(2, T_MAX, SIGMA_D).run(function, SampleNoise(range(4), [1, 2, 2]))
    assert [float(told[2][0]) for told in student.told] == pytest.approx([T_MAX / 2, 0])
    assert all(told[1].tolist() == pytest.approx([1.7] * 4) for told in student.told)


def test_a_teacher_at_scale_one_is_evaluated_plainly():
    data, x = mixture(), torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    t, labels = torch.full((2,), 0.7, dtype=torch.float64), torch.tensor([0, 1])
    assert torch.equal(conditioned(data, labels, 1.0)(x, t), data(x, t, labels))
    found = conditioned(data, labels, 3.0)(x, t)
    without, of_class = data(x, t), data(x, t, labels)
    assert torch.allclose(found, without + 3 * (of_class - without), rtol=0, atol=1e-12)


@pytest.mark.parametrize("guided_student", [True, False])
def test_guided_samples_do_not_depend_on_the_batch(guided_student):
    model, labels = tiny_model(guidance=guided_student), torch.arange(10) % 3
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_guidance" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    sampler = heun_sampler(3, 0.002, 80.0, 7.0, SIGMA_D)
    whole, parts, plain = (
        generate(model, sampler, range(10), labels, [1, 8, 8], size, "cpu", scale)[0]
        for size, scale in ((10, 1.8), (3, 1.8), (10, 1.0))
    )
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(whole, plain, atol=1e-2)


def test_the_closed_forms_classes_are_the_samplers_labels():
    """The data's own labels reach the sampler: class 1 alone is one Gaussian, whose flow is exact."""
    data = mixture()
    alone = Data((1.0,), (0.35,), 0.2)
    noise = torch.randn(5, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, zero = torch.full((5,), T_MAX, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    exact = alone.flow(noise * SIGMA_D, t, zero)
    found = ddim(
        conditioned(data, torch.ones(5, dtype=torch.int64), 1.0),
        noise,
        [T_MAX * (1 - i / 2000) for i in range(2001)],
        SIGMA_D,
    )
    assert torch.allclose(found, exact, rtol=0, atol=1e-3)
