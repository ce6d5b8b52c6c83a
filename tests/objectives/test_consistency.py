"""alg. 1 against finite differences, closed forms on Gaussian data, and its own definition."""

import math

import pytest
import torch

from scm import trigflow
from scm.jvp import output_and_tangent
from scm.objectives import consistency
from scm.objectives.consistency import Tangent, consistency_tangent, limited, normalized
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining
from tests.support.models import Linear, tiny_model

SIGMA_D = 0.5
LABELS = torch.tensor([0, 1, 2, -1])


def batch(seed: int = 0, count: int = 4, scale: float = SIGMA_D) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(count, 1, 8, 8, generator=draws, dtype=torch.float64) * scale
    return Batch(x_0, LABELS.repeat(count // 4), draws)


def consistency_function(model, x_t, t):
    return trigflow.denoise(x_t, t, model(x_t / SIGMA_D, t, LABELS), SIGMA_D)


def tangent_of(model, x_t, t, dx_dt, r=1.0) -> Tangent:
    labels = LABELS.repeat(len(t) // 4) if len(t) > 1 else LABELS[:1]
    return consistency_tangent(lambda x, time: model(x, time, labels), x_t, t, t, dx_dt, SIGMA_D, r)


def test_g_is_cos_t_times_the_derivative_of_f_along_the_trajectory():
    """At r = 1, alg. 1's g = cos t df(x_t, t)/dt, by central differences along dx/dt = sigma_d F_teacher."""
    student, teacher = tiny_model(1).double(), tiny_model(2).double()
    x_t = batch().x_0 * 1.3
    t = torch.tensor([0.05, 0.5, 1.1, 1.5], dtype=torch.float64)
    with torch.no_grad():
        direction = SIGMA_D * teacher(x_t / SIGMA_D, t, LABELS)
        h = 1e-6
        ahead, behind = (consistency_function(student, x_t + s * h * direction, t + s * h) for s in (1, -1))
    g = tangent_of(student, x_t, t, direction).g
    expected = torch.cos(t)[:, None, None, None] * (ahead - behind) / (2 * h)
    assert torch.allclose(g, expected, atol=1e-7)
    assert expected.abs().max() > 0.1


def test_the_warm_up_scales_the_second_term_alone():
    student = tiny_model(1).double()
    x_t, t = batch().x_0, torch.full((4,), 0.7, dtype=torch.float64)
    cold, half, full = (tangent_of(student, x_t, t, x_t * 0.3, r) for r in (0.0, 0.5, 1.0))
    assert torch.allclose(cold.g, -(math.cos(0.7) ** 2) * (SIGMA_D * cold.output.detach() - x_t * 0.3), atol=1e-14)
    assert torch.allclose(half.g, (cold.g + full.g) / 2, atol=1e-14)
    assert torch.equal(half.first, full.first) and torch.allclose(half.second, full.second / 2, atol=1e-14)
    assert torch.equal(full.g, full.first + full.second) and full.second.abs().max() > 0.01


def test_the_exact_solution_on_gaussian_data_has_no_tangent():
    """For N(0, s^2) the ODE's flow is x_t -> x_t s / sqrt(cos^2 s^2 + sin^2 sigma_d^2), so f is known; there g = 0."""
    scale = 0.3
    t = torch.tensor([0.1, 0.6, 1.2, 1.55], dtype=torch.float64)
    x_t = batch().x_0

    def solution(x, time, labels):
        """F with cos t x_t - sin t sigma_d F = flow of the ODE to time 0."""
        time = time.reshape(-1, 1, 1, 1)
        deviation = (torch.cos(time) ** 2 * scale**2 + torch.sin(time) ** 2 * SIGMA_D**2) ** 0.5
        return (torch.cos(time) - scale / deviation) / torch.sin(time) * x

    teacher = Linear(scale, SIGMA_D)
    direction = SIGMA_D * teacher(x_t / SIGMA_D, t).detach()
    g = tangent_of(solution, x_t, t, direction).g
    assert g.abs().max() < 1e-12
    off = tangent_of(lambda x, time, labels: 1.01 * solution(x, time, labels), x_t, t, direction).g
    assert off.abs().max() > 1e-3


def test_trainings_tangent_is_unbiased_for_distillations_with_the_exact_teacher():
    """E[v_t | x_t] is the exact teacher's direction, and g is linear in dx/dt: so is E[g]."""
    scale, t_value, draws = 0.3, 0.8, torch.Generator().manual_seed(0)
    student, x_t = tiny_model(1).double(), torch.full((1, 1, 8, 8), 0.25, dtype=torch.float64)
    t, teacher = torch.full((1,), t_value, dtype=torch.float64), Linear(scale, SIGMA_D)
    wanted = tangent_of(student, x_t, t, SIGMA_D * teacher(x_t / SIGMA_D, t).detach()).g
    cos, sin, count = math.cos(t_value), math.sin(t_value), 1000
    variance = cos**2 * scale**2 + sin**2 * SIGMA_D**2
    mean, spread = cos * scale**2 / variance * x_t, scale * SIGMA_D * sin / variance**0.5
    x_0 = mean + spread * torch.randn(count, 1, 8, 8, generator=draws, dtype=torch.float64)
    z = (x_t - cos * x_0) / sin
    v_t, labels = trigflow.velocity(x_0, z, t.expand(count)), LABELS[:1].expand(count)
    many = consistency_tangent(
        lambda x, time: student(x, time, labels),
        x_t.expand(count, -1, -1, -1), t.expand(count), t.expand(count), v_t, SIGMA_D, 1.0,
    ).g  # fmt: skip
    error = (many.mean(0, keepdim=True) - wanted).abs()
    assert (error < 5 * many.std(0) / count**0.5).all()


def test_normalisation_is_per_sample_over_all_elements():
    g = batch().x_0
    for one, result in zip(g, normalized(g, 0.1), strict=True):
        norm = one.square().sum().sqrt()
        assert torch.allclose(result, one / (norm + 0.1), atol=1e-15)


def test_a_tangent_is_normalised_clipped_or_left_as_it_is():
    g = torch.tensor([[[[-3.0, 0.5], [1.0, 0.2]]], [[[4.0, 0.0], [0.0, -3.0]]]], dtype=torch.float64)
    assert torch.equal(limited(g, "raw", 0.1), g)
    assert limited(g, "clipped", 0.1).flatten().tolist() == [-1, 0.5, 1, 0.2, 1, 0, 0, -1]
    assert torch.equal(limited(g, "normalized", 0.3), normalized(g, 0.3))
    assert normalized(g, 5.0)[1].flatten().tolist() == pytest.approx([0.4, 0, 0, -0.3])


@pytest.mark.parametrize("distil", [True, False])
def test_the_gradient_is_the_weighted_normalised_tangents(distil):
    """grad L = -2 exp(w) / D sum g dF/dtheta: the value of F - F^- is zero, its gradient is not (alg. 1)."""
    settings = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.6, "tangent_norm_c": 0.1, "tangent_warmup": 1000}
    student, teacher = tiny_model(1).double(), tiny_model(2).double()
    objective = ConsistencyDistillation(**settings, teacher=teacher) if distil else ConsistencyTraining(**settings)
    losses = objective(student, batch(), images_seen=250)
    losses.value.mean().backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    again = batch()
    t = trigflow.propose_times(again.normal(), -0.8, 1.6, SIGMA_D)
    z = again.normal(1, 8, 8) * SIGMA_D
    x_t = trigflow.interpolate(again.x_0, z, t)
    with torch.no_grad():
        direction = SIGMA_D * teacher(x_t / SIGMA_D, t, LABELS) if distil else trigflow.velocity(again.x_0, z, t)
    tangent = tangent_of(student, x_t, t, direction, r=0.25)
    g = normalized(tangent.g, 0.1)
    student.zero_grad()
    weight = student.log_weight(t).exp().detach() / 64
    pull = (-2 * weight[:, None, None, None] * g * student(x_t / SIGMA_D, t, LABELS)).sum(dim=(1, 2, 3)).mean()
    pull.backward()
    for name, parameter in student.named_parameters():
        if not name.startswith("log_weight"):
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-12), name
    assert torch.allclose(losses.t, t)
    figures = {
        "tangent_norm": tangent.g.flatten(1).norm(dim=1),
        "tangent_term1": tangent.first.flatten(1).norm(dim=1),
        "tangent_term2": tangent.second.flatten(1).norm(dim=1),
        "output_norm": tangent.output.detach().flatten(1).norm(dim=1) / 8,
        "log_weight": student.log_weight(t).detach(),
    }
    assert losses.figures.keys() == figures.keys()
    for name, values in figures.items():
        assert torch.allclose(losses.figures[name], values, atol=1e-12), name


@pytest.mark.parametrize(("images", "r"), [(0, 0.0), (250, 0.25), (1000, 1.0), (5000, 1.0)])
def test_the_tangents_warm_up_is_linear_and_ends(images, r):
    objective = ConsistencyTraining(sigma_d=SIGMA_D, p_mean=-0.8, p_std=1.6, tangent_warmup=1000)
    full = ConsistencyTraining(sigma_d=SIGMA_D, p_mean=-0.8, p_std=1.6)
    student = tiny_model(1).double()
    second, whole = (each(student, batch(), images).figures["tangent_term2"] for each in (objective, full))
    assert torch.allclose(second, r * whole, atol=1e-13)


def test_the_learned_weight_settles_where_the_weighted_loss_is_one():
    """d/dw (e^w l - w) = 0 at e^w l = 1: w_phi balances the loss over t (sec. 4.2)."""
    student = tiny_model(1).double()
    with torch.no_grad():
        student.log_weight_head.linear.weight.zero_()
    objective = ConsistencyTraining(sigma_d=SIGMA_D, p_mean=-0.8, p_std=1.6)
    loss = objective(student, batch(), 0).value.mean()
    loss.backward()
    squared = loss.detach()  # w = 0, so that the loss is the squared error itself
    assert student.log_weight_head.linear.bias.grad.item() == pytest.approx(squared.item() - 1, abs=1e-9)


@pytest.mark.parametrize("tangent", ["normalized", "clipped", "raw"])
def test_in_half_precision_a_sample_whose_tangent_overflowed_is_left_out(monkeypatch, tangent):
    """The others' gradients stay; an output that is not finite is no matter of one sample, and is not left out."""

    def gradient(leave_out: bool, spoil: float = math.nan, output: float = 0.0):
        def spoiled(*arguments):
            found, scaled = output_and_tangent(*arguments)
            mask = torch.tensor([0.0, 1, 0, 0])[:, None, None, None]
            return found + torch.where(mask > 0, output, 0.0), scaled + torch.where(mask > 0, spoil, 0.0)

        model = tiny_model(1)
        monkeypatch.setattr(consistency, "output_and_tangent", spoiled)
        settings = {"sigma_d": SIGMA_D, "p_mean": -1.0, "p_std": 1.4, "tangent": tangent}
        objective = ConsistencyTraining(**settings, leave_out_overflow=leave_out)
        x_0 = batch().x_0.float()
        losses = objective(model, Batch(x_0, LABELS, torch.Generator().manual_seed(1)), 0)
        used = losses.value[torch.tensor([0, 2, 3])].sum() if spoil == 0 else losses.value.sum()
        used.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), losses

    found, losses = gradient(True)
    expected, _ = gradient(False, spoil=0.0)
    assert losses.left_out.tolist() == [False, True, False, False] and losses.value[1] == 0
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert not gradient(False)[0].isfinite().all()
    broken, losses = gradient(True, output=math.inf)
    assert not losses.left_out.any() and not broken.isfinite().all()
