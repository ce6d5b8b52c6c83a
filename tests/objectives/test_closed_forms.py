"""Continuous-time consistency on data with a known flow: g, losses, gradients and the fixed point, in float64."""

import math

import numpy as np
import pytest
import torch

from scm import trigflow
from scm.objectives.consistency import consistency_tangent
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining
from tests.support.closed_forms import DATA, SIGMA_D, Data, Student, gaussian, integrate, mixture, pull
from tests.support.models import tiny_model

TIMES = torch.tensor([0.02, 0.3, 0.7, 1.1, 1.5, 1.564], dtype=torch.float64)
PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


@both
def test_the_teacher_is_the_score(data):
    """E[z | x_t] = -sin t sigma_d^2 grad log p_t, E[x_0 | x_t] = (x_t - sin t E[z]) / cos t (Tweedie)."""
    x_t = data.at(TIMES).requires_grad_()
    (score,) = torch.autograd.grad(data.density(x_t, TIMES).log().sum(), x_t)
    cos, sin = (trigflow.per_sample(angle, x_t) for angle in (torch.cos(TIMES), torch.sin(TIMES)))
    z = -sin * SIGMA_D**2 * score
    assert torch.allclose(data.velocity(x_t, TIMES), cos * z - sin * (x_t - sin * z) / cos, rtol=0, atol=1e-11)


@both
def test_the_flow_is_the_odes(data):
    """Runge-Kutta with the exact teacher from t to 0 lands where the distribution function says; also on the way."""
    x_t = data.at(TIMES)
    for end in (torch.zeros_like(TIMES), TIMES / 2):
        assert torch.allclose(integrate(data.velocity, x_t, TIMES, end), data.flow(x_t, TIMES, end), rtol=0, atol=1e-6)


def test_the_flow_of_gaussian_data_is_linear():
    x_t = gaussian().at(TIMES)
    cos, sin = (trigflow.per_sample(angle, x_t) for angle in (torch.cos(TIMES), torch.sin(TIMES)))
    means = torch.tensor([0.2, 0.0], dtype=torch.float64)
    linear = means + 0.3 / (cos**2 * 0.3**2 + sin**2 * SIGMA_D**2).sqrt() * (x_t - cos * means)
    assert torch.allclose(gaussian().flow(x_t, TIMES, torch.zeros_like(TIMES)), linear, rtol=0, atol=1e-11)


@both
@pytest.mark.parametrize("bend", [0.0, 0.4, -0.4])
def test_g_is_cos_t_df_dt_in_closed_form(data, bend):
    """df/dt = -bend sigma_d cos t f*, and 0 for the exact solution."""
    x_t = data.at(TIMES)
    g = consistency_tangent(
        Student(data, bend), x_t, TIMES, TIMES, SIGMA_D * data(x_t / SIGMA_D, TIMES), SIGMA_D, r=1.0
    ).g
    solution = data.flow(x_t, TIMES, torch.zeros_like(TIMES))
    expected = -bend * SIGMA_D * trigflow.per_sample(torch.cos(TIMES) ** 2, x_t) * solution
    assert torch.allclose(g, expected, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("tangent", ["raw", "clipped", "normalized"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_scds_loss_and_gradient_in_closed_form(data, tangent, adaptive):
    """L = e^w / D ||g||^2 - w; d L = -2 e^w / D g dF/dbend, with dF/dbend = f*; and e^w ||g||^2 / D - 1 for w."""
    student = Student(data, bend=6.0, level=0.3)
    objective = ConsistencyDistillation(
        **PROPOSAL, teacher=data, tangent=tangent, tangent_norm_c=0.2, adaptive_weighting=adaptive
    )
    losses = objective(student, data.batch(), 0)
    again = data.batch()
    t = trigflow.propose_times(again.normal(), -0.8, 1.2, SIGMA_D)
    x_t = trigflow.interpolate(again.x_0, again.normal(1, 1, 2) * SIGMA_D, t)
    solution = data.flow(x_t, t, torch.zeros_like(t)).flatten(1)
    g = -6.0 * SIGMA_D * (torch.cos(t) ** 2)[:, None] * solution
    length = (g**2).sum(dim=1, keepdim=True).sqrt()
    limited = {"raw": g, "clipped": g.clamp(-1, 1), "normalized": g / (length + 0.2)}[tangent]
    assert (g.abs() > 1).any() and (g.abs() < 1).any()
    level = 0.3 if adaptive else 0.0
    assert torch.allclose(losses.value, math.exp(level) * (limited**2).sum(dim=1) / 2 - level, rtol=1e-8, atol=1e-8)
    assert torch.allclose(losses.figures["tangent_norm"], length.squeeze(1), rtol=1e-8, atol=1e-8)
    losses.value.sum().backward()
    pull = -2 * math.exp(level) / 2 * (limited * solution).sum()
    assert student.bend.grad.item() == pytest.approx(pull.item(), rel=1e-8)
    if adaptive:
        assert student.level.grad.item() == pytest.approx((losses.value + 0.3 - 1).sum().item(), rel=1e-8)
    else:
        assert student.level.grad is None and not losses.figures["log_weight"].any()


@both
@pytest.mark.parametrize("tangent", ["raw", "clipped", "normalized"])
@pytest.mark.parametrize("bend", [0.7, -0.7])
def test_scds_fixed_point_is_the_exact_solution(data, tangent, bend):
    """Gradient steps end at bend = 0 from both sides, where the loss has no gradient."""
    student = Student(data, bend)
    objective = ConsistencyDistillation(**PROPOSAL, teacher=data, tangent=tangent)
    rate = {"raw": 5.0, "clipped": 5.0, "normalized": 0.5}[tangent]
    for step in range(40):
        student.zero_grad()
        objective(student, data.batch(32, step), 0).value.mean().backward()
        with torch.no_grad():
            student.bend -= rate * student.bend.grad
    assert abs(student.bend.item()) < 1e-4


@both
def test_trainings_tangent_is_unbiased_for_distillations_with_the_exact_teacher(data):
    """E[g | x_t] over the posterior of x_0, by quadrature: g is linear in v_t, so that three nodes are exact."""
    data = Data(tuple(data.weights.tolist()), tuple(data.means[0].tolist()), data.width, elements=1)
    x_t = torch.full((1, 1, 1, 1), 0.17, dtype=torch.float64)
    student = Student(data, 0.8)
    nodes, shares = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(3))
    for value in (0.1, 0.8, 1.4):
        t, cos, sin = torch.tensor([value], dtype=torch.float64), math.cos(value), math.sin(value)
        variance = cos**2 * data.width**2 + sin**2 * SIGMA_D**2
        off = 0.17 - cos * data.means[0]
        likely = data.weights * torch.exp(-(off**2) / (2 * variance))
        likely = likely / likely.sum()
        means = data.means[0] + cos * data.width**2 / variance * off
        x_0 = (means[:, None] + data.width * SIGMA_D * sin / variance**0.5 * nodes).reshape(-1, 1, 1, 1)
        weight = (likely[:, None] * shares / shares.sum()).reshape(-1, 1, 1, 1)
        v_t = trigflow.velocity(x_0, (x_t - cos * x_0) / sin, t.expand(len(x_0)))
        expected = consistency_tangent(student, x_t, t, t, SIGMA_D * data(x_t / SIGMA_D, t), SIGMA_D, 1.0).g
        each = consistency_tangent(
            student, x_t.expand_as(x_0), t.expand(len(x_0)), t.expand(len(x_0)), v_t, SIGMA_D, 1.0
        ).g
        assert torch.allclose((weight * each).sum(), expected, rtol=0, atol=1e-10)
        assert (each - expected).abs().max() > 0.01


@both
def test_scts_gradient_vanishes_at_the_exact_solution_alone(data):
    """On average: within five standard errors of 0 at bend = 0, and far from it beside."""
    objective = ConsistencyTraining(**PROPOSAL, tangent="raw")
    mean, error = pull(objective, data, 0.0, 40, 256)
    assert abs(mean) < 5 * error
    for bend in (-1.0, 1.0):
        mean, error = pull(objective, data, bend, 40, 256)
        assert mean * bend > 10 * error


def test_a_student_of_a_few_bends_away_has_the_tangent_of_its_own_derivative():
    """A network of no closed form along the mixture's exact ODE: central differences of f on the exact trajectory."""
    data, student = Data((0.3, 0.7), (-0.45, 0.35), 0.2, elements=64), tiny_model(3).double()
    t, h = torch.tensor([0.2, 0.6, 1.0, 1.4], dtype=torch.float64), 1e-4
    x_t = data.at(t)

    def f(x, time):
        return trigflow.denoise(x, time, student(x.reshape(4, 1, 8, 8) / SIGMA_D, time).reshape(x.shape), SIGMA_D)

    with torch.no_grad():
        ahead, behind = (f(data.flow(x_t, t, t + s * h), t + s * h) for s in (1, -1))
    direction = (SIGMA_D * data(x_t / SIGMA_D, t)).reshape(4, 1, 8, 8)
    g = consistency_tangent(student, x_t.reshape(4, 1, 8, 8), t, t, direction, SIGMA_D, 1.0).g
    expected = trigflow.per_sample(torch.cos(t), x_t) * (ahead - behind) / (2 * h)
    assert torch.allclose(g, expected.reshape(g.shape), rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_the_teachers_labels_choose_a_component():
    data, labels = mixture(), torch.tensor([0, 1, -1])
    t = torch.full((3,), 0.6, dtype=torch.float64)
    x_t = data.at(t[:1]).expand(3, -1, -1, -1)
    alone = [Data((1.0,), (mean,), 0.2).velocity(x_t[:1], t[:1]) for mean in (-0.45, 0.35)]
    found = data.velocity(x_t, t, labels)
    assert torch.allclose(found[:2], torch.cat(alone), rtol=0, atol=1e-13)
    assert torch.equal(found[2:], data.velocity(x_t[2:], t[2:]))
