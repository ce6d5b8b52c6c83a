"""Multistep consistency distillation: segments, the derivative inside them, and one segment that is sCD."""

import math

import pytest
import torch

from scm import trigflow
from scm.objectives.consistency import consistency_tangent
from scm.objectives.multistep import MultistepDistillation, segment_start
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from tests.support.closed_forms import DATA, SIGMA_D, T_MAX, Student, mixture
from tests.support.models import tiny_model

PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
TIMES = torch.tensor([0.05, 0.5, 0.53, 0.9, 1.1, 1.5, 1.56], dtype=torch.float64)
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


def test_segments_have_equal_lengths_and_contain_their_ends():
    t = torch.tensor([1e-9, 0.2, 0.5, 0.5 + 1e-9, 1.0, 1.2, 1.5, 1.55], dtype=torch.float64)
    assert segment_start(t, 3, 1.5).tolist() == [0, 0, 0, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert segment_start(t, 1, 1.5).tolist() == [0] * 8
    assert segment_start(torch.tensor([0.8]), 2, T_MAX).item() == pytest.approx(T_MAX / 2)


def test_one_segment_is_scd_to_the_bit():
    """Losses, figures and gradients; the embedding of t_k starts at zero."""
    plain, teacher = tiny_model(1, guidance=True), tiny_model(2)
    segmented = tiny_model(1, guidance=True, segments=True)
    missing, unexpected = segmented.load_state_dict(plain.state_dict(), strict=False)
    assert missing and all("segment" in name for name in missing) and not unexpected
    common = {**PROPOSAL, "teacher": teacher, "guidance": (1.0, 2.0), "tangent_warmup": 100, "label_dropout": 0.2}
    found = []
    for model, objective in (
        (plain, ConsistencyDistillation(**common)),
        (segmented, MultistepDistillation(**common, segments=1, t_max=T_MAX)),
    ):
        draws = torch.Generator().manual_seed(0)
        losses = objective(model, Batch(torch.randn(8, 1, 8, 8, generator=draws) * 0.5, torch.arange(8) % 3, draws), 60)
        losses.value.mean().backward()
        found.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    (scd, expected), (ours, gradients) = found
    assert torch.equal(ours.value, scd.value) and torch.equal(ours.t, scd.t)
    assert all(torch.equal(ours.figures[name], value) for name, value in scd.figures.items())
    for name, gradient in expected.items():
        assert (gradient is None) == (gradients[name] is None), name
        assert gradient is None or torch.equal(gradients[name], gradient), name


@both
@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("bend", [0.0, 0.5])
def test_g_in_closed_form_on_each_segment(data, segments, bend):
    """The exact jump to t_k has g = 0, the bent one -bend sigma_d cos^2(t - t_k) times where the ODE is at t_k."""
    objective = MultistepDistillation(**PROPOSAL, teacher=data, segments=segments, t_max=T_MAX)
    batch, x_t = data.batch(len(TIMES)), data.at(TIMES)
    inputs = objective.inputs(batch, TIMES)
    student = Student(data, bend)
    direction = SIGMA_D * data(x_t / SIGMA_D, TIMES)
    tangent = objective.tangent_of(
        lambda x, t: student(x, t, segment=inputs["segment"]), x_t, TIMES, inputs, direction, 1.0
    )
    start = torch.floor(TIMES / (T_MAX / segments)) * T_MAX / segments
    expected = -bend * SIGMA_D * trigflow.per_sample(torch.cos(TIMES - start) ** 2, x_t) * data.flow(x_t, TIMES, start)
    assert torch.allclose(tangent.g, expected, rtol=0, atol=1e-9)
    assert (start > 0).any() == (segments > 1)


def test_g_is_the_derivative_of_the_jump_by_finite_differences():
    """g = cos(t - t_k) df/dt for a network of no closed form; r scales the second term."""
    student, teacher = tiny_model(1, segments=True).double(), tiny_model(2).double()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "_segment" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.2, 0.7, 1.1, 1.5], dtype=torch.float64)
    start = torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    x_t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6
    objective = MultistepDistillation(**PROPOSAL, teacher=teacher, segments=3, t_max=1.5)

    def function(x, time):
        return student(x, time, segment=start)

    def f(h: float) -> torch.Tensor:
        moved, time = x_t + h * direction, t + h
        return trigflow.denoise(moved, time - start, function(moved / SIGMA_D, time), SIGMA_D)

    with torch.no_grad():
        direction = SIGMA_D * teacher(x_t / SIGMA_D, t)
        expected = trigflow.per_sample(torch.cos(t - start), x_t) * (f(1e-6) - f(-1e-6)) / 2e-6
    whole, half = (objective.tangent_of(function, x_t, t, {"segment": start}, direction, r) for r in (1.0, 0.5))
    assert torch.allclose(whole.g, expected, rtol=0, atol=1e-7)
    assert torch.allclose(half.second, whole.second / 2, atol=1e-14) and expected.abs().max() > 0.1


def test_the_loss_is_made_of_the_segments_tangent_and_the_student_is_told_its_start():
    data, told = mixture(), []

    class Told(Student):
        def forward(self, x, t, labels=None, *, segment=None, guidance=None):
            told.append((segment, guidance))
            return super().forward(x, t, labels, segment=segment)

    objective = MultistepDistillation(
        **PROPOSAL, teacher=data, segments=4, t_max=T_MAX, tangent="raw", guidance=(1.0, 1.0)
    )
    losses = objective(Told(data, 0.8, level=0.4), data.batch(labels=torch.arange(64) % 3 - 1), 0)
    (segment, guidance), t = told[0], losses.t
    expected = torch.floor(t / (T_MAX / 4)).clamp(max=3) * T_MAX / 4
    assert torch.allclose(segment, expected, rtol=0, atol=1e-12) and torch.equal(guidance, torch.ones_like(t))
    batch = data.batch(labels=torch.arange(64) % 3 - 1)
    assert torch.equal(trigflow.propose_times(batch.normal(), -0.8, 1.2, SIGMA_D), t)
    x_t = trigflow.interpolate(batch.x_0, batch.normal(1, 1, 2) * SIGMA_D, t)
    jump = data.flow(x_t, t, segment, batch.labels)
    g = -0.8 * SIGMA_D * trigflow.per_sample(torch.cos(t - segment) ** 2, x_t) * jump
    value = math.exp(0.4) * (g**2).flatten(1).mean(dim=1) - 0.4
    assert torch.allclose(losses.value, value, rtol=1e-7, atol=1e-9)


@both
@pytest.mark.parametrize("bend", [0.7, -0.7])
def test_the_fixed_point_is_the_exact_jump(data, bend):
    student = Student(data, bend)
    objective = MultistepDistillation(**PROPOSAL, teacher=data, segments=3, t_max=T_MAX, tangent="raw")
    for step in range(30):
        student.zero_grad()
        objective(student, data.batch(32, step), 0).value.mean().backward()
        with torch.no_grad():
            student.bend -= 4.0 * student.bend.grad
    assert abs(student.bend.item()) < 1e-4


def test_the_angle_and_the_time_are_two_things():
    """The network is told t, and its derivative runs along t, whatever the angle's origin."""
    t, angle = torch.tensor([1.2], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    x_t = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    found = consistency_tangent(lambda x, time: time[:, None, None, None] ** 2, x_t, t, angle, x_t * 0, SIGMA_D, 1.0)
    cos, sin = math.cos(0.4), math.sin(0.4)
    expected = -(cos**2) * SIGMA_D * 1.44 - cos * sin * (0.3 + SIGMA_D * 2 * 1.2)
    assert found.g.item() == pytest.approx(expected, rel=1e-12)
