"""Distillation of a guided teacher: the scale's draw, the teacher's direction, and what the student is told."""

import math

import pytest
import torch

from scm import trigflow
from scm.objectives.consistency import consistency_tangent
from scm.objectives.diffusion import drop_labels
from scm.objectives.discrete import DiscreteDistillation, time_grid
from scm.objectives.distillation import guidance_inputs, teacher_output
from scm.objectives.scd import ConsistencyDistillation
from tests.support.closed_forms import SIGMA_D, Data, Student, mixture
from tests.support.models import tiny_model

PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
CLASSES = torch.arange(48) % 3 - 1


class Told(Student):
    """Remembers the scale and the labels that it was given."""

    def __init__(self, data: Data, **values: float) -> None:
        super().__init__(data, **values)
        self.scales, self.labels = [], []

    def forward(self, x, t, labels=None, *, guidance=None):
        self.scales.append(guidance)
        self.labels.append(labels)
        return super().forward(x, t, labels)


def guided_direction(data: Data, x_t, t, labels, scale):
    """sigma_d (F_uncond + s (F_cond - F_uncond)) from the closed forms."""
    without, of_class = data.velocity(x_t, t), data.velocity(x_t, t, labels)
    return without + scale[:, None, None, None] * (of_class - without)


def test_scales_are_uniform_between_their_bounds():
    data = mixture()
    scale = guidance_inputs(data.batch(20_000), (1.5, 4.0))["guidance"]
    assert 1.5 <= scale.min() < 1.51 and 3.99 < scale.max() < 4.0
    counts = torch.histc(scale, bins=5, min=1.5, max=4.0) / 20_000
    assert counts.tolist() == pytest.approx([0.2] * 5, abs=0.02)
    assert (guidance_inputs(data.batch(8), (1.3, 1.3))["guidance"] == 1.3).all()
    assert guidance_inputs(data.batch(8), None) == {}


@pytest.mark.parametrize("grid", [None, time_grid(40, 0.01, 20.0, 7.0, SIGMA_D)], ids=["scd", "discrete"])
def test_the_student_follows_the_guided_teacher_and_is_told_its_scale(grid):
    """The step written out: after the times and noise come the dropped labels, then the scales."""
    data = mixture()
    student = Told(data, bend=0.5, level=0.2)
    settings = {**PROPOSAL, "teacher": data, "guidance": (1.0, 3.0), "label_dropout": 0.3, "tangent": "raw"}
    made = ConsistencyDistillation(**settings) if grid is None else DiscreteDistillation(**settings, grid=grid)
    losses = made(student, data.batch(48, labels=CLASSES), 0)
    again = data.batch(48, labels=CLASSES)
    t = made.times(again)
    x_t = trigflow.interpolate(again.x_0, again.normal(1, 1, 2) * SIGMA_D, t)
    labels = drop_labels(again, 0.3)
    scale = 1.0 + 2.0 * again.uniform()
    assert (labels != CLASSES).any() and (labels >= 0).any()
    assert all(torch.equal(told, scale) for told in student.scales)
    assert all(torch.equal(told, labels) for told in student.labels)
    direction = guided_direction(data, x_t, t, labels, scale)
    function = lambda x, time: Student(data, 0.5)(x, time, labels)  # noqa: E731
    if grid is None:
        g = consistency_tangent(function, x_t, t, t, direction, SIGMA_D, 1.0).g
    else:
        g = made.tangent_of(function, x_t, t, {}, direction, 1.0).g
    value = math.exp(0.2) * (g**2).flatten(1).mean(dim=1) - 0.2
    assert torch.allclose(losses.value, value, rtol=1e-8, atol=1e-10)


def test_the_student_follows_a_teacher_that_another_network_guides():
    """Data and a broader guide, both in closed form: the direction is F_guide + s (F - F_guide)."""
    data, guide = mixture(), Data((0.5, 0.5), (-0.3, 0.2), 0.4)
    made = ConsistencyDistillation(**PROPOSAL, teacher=data, guidance=(1.0, 3.0))
    t = torch.linspace(0.2, 1.4, 6, dtype=torch.float64)
    x_t, labels, scale = data.at(t), torch.arange(6) % 3 - 1, torch.linspace(1, 3, 6, dtype=torch.float64)
    data.guide = guide
    found = made.direction(x_t, t, labels, {"guidance": scale}, torch.zeros_like(x_t))
    own, base = data.velocity(x_t, t, labels), guide.velocity(x_t, t, labels)
    assert torch.allclose(found, base + scale[:, None, None, None] * (own - base), rtol=0, atol=1e-12)
    assert torch.allclose(found[0], own[0], rtol=0, atol=1e-12) and (found[1:] - own[1:]).abs().max() > 0.05
    alone = ConsistencyDistillation(**PROPOSAL, teacher=data)
    assert torch.equal(alone.direction(x_t, t, labels, {}, x_t), SIGMA_D * data(x_t / SIGMA_D, t, labels))


def test_scale_one_is_the_conditional_teacher():
    """Losses agree with those of no guidance, whose teacher is told the labels; at another scale they do not."""
    data = mixture()
    batches = [data.batch(48, labels=CLASSES) for _ in range(3)]
    made = [ConsistencyDistillation(**PROPOSAL, teacher=data, guidance=span) for span in (None, (1, 1), (3, 3))]
    without, one, three = (
        each(Told(data, bend=0.5), batch, 0).value for each, batch in zip(made, batches, strict=True)
    )
    assert torch.allclose(one, without, rtol=0, atol=1e-12)
    labelled = CLASSES >= 0
    assert not torch.isclose(three, without, rtol=0.01)[labelled].all()
    assert torch.allclose(three[~labelled], without[~labelled], rtol=0, atol=1e-12)


def test_the_exact_student_of_a_class_has_no_tangent_under_its_teacher_alone():
    """With labels the flow is that of the class's own Gaussian; guided by another scale the ODE is another one."""
    data = mixture()
    for span, zero in (((1.0, 1.0), True), ((2.0, 2.0), False)):
        made = ConsistencyDistillation(**PROPOSAL, teacher=data, guidance=span)
        norms = made(Told(data), data.batch(48, labels=CLASSES.clamp(min=0)), 0).figures["tangent_norm"]
        assert (norms.max() < 1e-9) == zero
        assert zero or norms.max() > 0.05


def test_the_teacher_is_evaluated_without_graph_and_told_no_scale():
    teacher, t = tiny_model(2), torch.tensor([0.4, 0.9])
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    plain = teacher_output(teacher, x, t, labels, {})
    with torch.no_grad():
        expected = teacher(x, t, labels)
    assert not plain.requires_grad and torch.equal(plain, expected)
    guided = teacher_output(teacher, x, t, labels, {"guidance": torch.tensor([1.0, 3.0])})
    without = teacher(x, t, None)
    assert not guided.requires_grad
    assert torch.allclose(guided[0], plain[0], atol=1e-5)
    assert torch.allclose(guided[1], (without + 3 * (plain - without))[1], atol=1e-5)
    data = mixture()
    teacher_output(data, data.at(t.double()), t.double(), torch.tensor([0, 1]), {"guidance": t, "segment": t})
    assert data.told == [{}]
