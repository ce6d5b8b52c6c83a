"""Flow maps on data with a known flow: MeanFlow, AYF-EMD and FACM, their special cases, losses and fixed points."""

import math
from dataclasses import replace

import pytest
import torch

from scm import trigflow
from scm.objectives.ayf import FlowMapDistillation, time_of
from scm.objectives.consistency import consistency_tangent, diffusion_tangent
from scm.objectives.diffusion import velocity_loss
from scm.objectives.facm import FlowAnchoredDistillation
from scm.objectives.meanflow import MeanFlow
from scm.objectives.multistep import MultistepDistillation, segment_start
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining
from tests.support.closed_forms import DATA, SIGMA_D, T_MAX, Student, gaussian, mixture, pull
from tests.support.models import tiny_model

PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
RAW = {**PROPOSAL, "tangent": "raw", "adaptive_weighting": False}
T = torch.tensor([0.3, 0.7, 0.9, 1.1, 1.5, 1.564], dtype=torch.float64)
S = torch.tensor([0.05, 0.0, 0.89, 0.4, 1.2, 0.0], dtype=torch.float64)
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


def images() -> Batch:
    """A batch that a tiny network takes."""
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randn(8, 1, 8, 8, generator=draws) * 0.5, torch.arange(8) % 3, draws)


def gradients(objective, model, seen: int = 0):
    """Losses of `images`, and the gradient of their mean for each parameter that has one."""
    model.zero_grad()
    losses = objective(model, images(), seen)
    losses.value.mean().backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def per(values, like):
    return trigflow.per_sample(values, like)


@both
@pytest.mark.parametrize("bend", [0.0, 0.6])
def test_the_tangent_of_a_flow_map_in_closed_form(data, bend):
    """g = cos(t - s) df_s/dt: 0 for the exact map, and -bend sigma_d cos^2(t - s) f_s for the bent one."""
    objective = FlowMapDistillation(**PROPOSAL, teacher=data, r_max=1.0)
    x_t, student = data.at(T), Student(data, bend)
    direction = SIGMA_D * data(x_t / SIGMA_D, T)

    def function(x, t):
        return student(x, t, segment=S)

    g = objective.tangent_of(function, x_t, T, {"segment": S}, direction, 1.0).g
    expected = -bend * SIGMA_D * per(torch.cos(T - S) ** 2, x_t) * data.flow(x_t, T, S)
    assert torch.allclose(g, expected, rtol=0, atol=1e-9)
    wrong = objective.tangent_of(function, x_t, T, {"segment": S * 0.9}, direction, 1.0).g
    assert not torch.allclose(wrong, expected, rtol=0, atol=1e-4)


@both
@pytest.mark.parametrize(("power", "c"), [(0.0, 1.0), (0.75, 1e-3), (1.0, 0.1)])
def test_meanflows_loss_and_gradient_in_closed_form(data, power, c):
    """Each element's flow keeps its distribution function, so df_s/dx = p_t / p_s, and g follows for any v_t.

    L = ||g||^2 / (||g||^2 + c)^p, d L = -2 g dF / (||g||^2 + c)^p, with dF/dbend = f*.
    """
    bend, student = 0.8, Student(data, 0.8)
    objective = MeanFlow(**RAW, jumps=0.7, weight_p=power, weight_c=c)
    losses = objective(student, data.batch(), 0)
    places = objective.places(data.batch())
    x_t, t, s = places.x_t, places.t, places.inputs["segment"]
    assert torch.equal(losses.t, t) and 0 < (s == t).sum() < 40
    jump, angle = data.flow(x_t, t, s), per(t - s, x_t)
    slope = (1 - bend * SIGMA_D * torch.sin(angle)) * data.density(x_t, t) / data.density(jump, s)
    mean = data.velocity(x_t, t)
    g = torch.cos(angle) * (slope * (places.direction - mean) - bend * SIGMA_D * torch.cos(angle) * jump)
    length = (g**2).flatten(1).sum(dim=1)
    assert torch.allclose(losses.value, length / (length + c) ** power, rtol=1e-7, atol=1e-10)
    losses.value.sum().backward()
    pull = -2 * ((g * jump).flatten(1).sum(dim=1) / (length + c) ** power).sum()
    assert student.bend.grad.item() == pytest.approx(pull.item(), rel=1e-7)
    again = data.batch()
    times = [trigflow.propose_times(again.normal(), -0.8, 1.2, SIGMA_D) for _ in range(2)]
    apart = again.uniform() < 0.7
    assert torch.equal(t, torch.maximum(*times)) and torch.equal(s, torch.where(apart, torch.minimum(*times), t))
    z = again.normal(1, 1, 2) * SIGMA_D
    assert torch.equal(places.direction, trigflow.velocity(again.x_0, z, t))


@both
def test_meanflows_error_is_the_papers_up_to_the_paths_factor(data):
    """The paper's U - v + (u - w) dU/du on the linear path, from z_u = x_t / (cos t + sin t) to the same map at s.

    U = (z_u - f_w) / (u - w), and its derivatives by central differences; dU/dF = (cos t + sin t) sigma_d.
    """
    student, h = Student(data, 0.8), 1e-5
    t, s = (torch.tensor(times, dtype=torch.float64) for times in ([0.4, 0.8, 1.2, 1.5], [0.1, 0.7, 0.3, 0.0]))
    x_t, v_t = data.at(t), data.at(t, seed=1)

    def longer(time):
        return per(torch.cos(time) + torch.sin(time), x_t)

    def u(time):
        return per(torch.sin(time), x_t) / longer(time)

    def average(x, time, change=0.0):
        output = student(x / SIGMA_D, time, segment=s) + change
        jumped = trigflow.denoise(x, time - s, output, SIGMA_D)
        return (x / longer(time) - jumped / longer(s)) / (u(time) - u(s))

    ahead, behind = ((x_t + step * v_t, t + step) for step in (h, -h))
    with torch.no_grad():
        pace = u(ahead[1]) - u(behind[1])
        v = (ahead[0] / longer(ahead[1]) - behind[0] / longer(behind[1])) / pace
        error = average(x_t, t) - v + (u(t) - u(s)) * (average(*ahead) - average(*behind)) / pace
        change = (average(x_t, t, 1.0) - average(x_t, t)) / SIGMA_D
    g = consistency_tangent(lambda x, time: student(x, time, segment=s), x_t, t, t - s, v_t, SIGMA_D, 1.0).g
    factor = longer(t) ** 2 / (longer(s) * per(torch.cos(t - s), x_t))
    assert torch.allclose(error, -g * factor, rtol=1e-5, atol=1e-6) and g.abs().max() > 0.1
    assert torch.allclose(change, longer(t).expand_as(change), rtol=1e-9, atol=0)


@pytest.mark.parametrize("bend", [0.7, -0.7])
@pytest.mark.parametrize("method", ["ayf", "meanflow", "facm"])
def test_the_fixed_point_is_the_exact_map(method, bend):
    """Along the exact direction each method's gradient steps end at the exact map, from both sides."""
    data = mixture()

    class Exact(MeanFlow):
        def direction(self, x_t, t, labels, inputs, v_t):
            return data.velocity(x_t, t)

    objective = {
        "ayf": FlowMapDistillation(**RAW, teacher=data, r_max=1.0),
        "meanflow": Exact(**RAW, jumps=0.6, weight_p=0.5, weight_c=1.0),
        "facm": FlowAnchoredDistillation(**RAW, teacher=data, anchor=0.5),
    }[method]
    student = Student(data, bend)
    rate = {"ayf": 6.0, "meanflow": 3.0, "facm": 3.0}[method]
    for step in range(20):
        student.zero_grad()
        objective(student, data.batch(16, step), 0).value.mean().backward()
        with torch.no_grad():
            student.bend -= rate * student.bend.grad
    assert abs(student.bend.item()) < 1e-4


def test_meanflows_gradient_vanishes_at_the_exact_map_on_average():
    """With v_t itself and p = 0: within five standard errors of 0 there, and far from it beside."""
    data, objective = gaussian(), MeanFlow(**RAW, jumps=0.75, weight_p=0.0, weight_c=1.0)
    mean, error = pull(objective, data, 0.0, 12, 128)
    assert abs(mean) < 5 * error
    for bend in (-1.0, 1.0):
        mean, error = pull(objective, data, bend, 12, 128)
        assert mean * bend > 10 * error


def one_time(kind):
    """The objective with sCM's own times, and a jump to the end that `end` returns."""

    class OneTime(kind):
        end = staticmethod(torch.zeros_like)

        def jump(self, batch):
            t = self.times(batch)
            return t, {"segment": self.end(t)}

    return OneTime


def test_jumps_to_the_data_are_scm_to_the_bit():
    """s = 0: AYF-EMD is sCD with losses, figures and gradients; MeanFlow without its weight is sCT times D."""
    student, teacher = tiny_model(1, segments=True, guidance=True), tiny_model(2)
    plain = tiny_model(1, guidance=True)
    student.load_state_dict(plain.state_dict(), strict=False)
    common = {**PROPOSAL, "teacher": teacher, "guidance": (1.0, 2.0), "tangent_warmup": 100, "label_dropout": 0.2}
    expected, theirs = gradients(ConsistencyDistillation(**common), plain, 60)
    found, ours = gradients(one_time(FlowMapDistillation)(**common, r_max=1.0), student, 60)
    assert torch.equal(found.value, expected.value) and torch.equal(found.t, expected.t)
    assert all(torch.equal(found.figures[name], value) for name, value in expected.figures.items())
    assert all(torch.equal(ours[name], gradient) for name, gradient in theirs.items())
    student, plain = tiny_model(1, segments=True), tiny_model(1)
    student.load_state_dict(plain.state_dict(), strict=False)
    _, theirs = gradients(ConsistencyTraining(**RAW), plain)
    _, ours = gradients(one_time(MeanFlow)(**RAW, jumps=1.0, weight_p=0.0, weight_c=1.0), student)
    assert all(torch.allclose(ours[name], 64 * gradient, rtol=1e-6, atol=0) for name, gradient in theirs.items())


def test_jumps_to_a_grid_are_multistep_to_the_bit():
    student, teacher = tiny_model(1, segments=True), tiny_model(2)
    common = {**PROPOSAL, "teacher": teacher, "tangent_warmup": 100}
    expected, theirs = gradients(MultistepDistillation(**common, segments=3, t_max=T_MAX), student, 60)
    grid = one_time(FlowMapDistillation)
    grid.end = staticmethod(lambda t: segment_start(t, 3, T_MAX))
    found, ours = gradients(grid(**common, r_max=1.0), student, 60)
    assert torch.equal(found.value, expected.value)
    assert all(torch.equal(ours[name], gradient) for name, gradient in theirs.items())


def test_jumps_of_no_length_are_the_diffusion_loss():
    """s = t: value and gradient, over sigma_d; MeanFlow's D-fold is a power of two."""
    student = tiny_model(1, segments=True).double()
    objective = MeanFlow(**RAW, jumps=0.0, weight_p=0.0, weight_c=1.0)
    batch = replace(images(), x_0=images().x_0.double())
    objective(student, batch, 0).value.mean().backward()
    ours = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    places = objective.places(replace(images(), x_0=batch.x_0))
    assert torch.equal(places.inputs["segment"], places.t)
    student.zero_grad()
    output = student(places.x_t / SIGMA_D, places.t, places.labels, segment=places.t)
    losses = velocity_loss(output, places.direction, places.t, torch.zeros_like(places.t), SIGMA_D)
    losses.value.mean().backward()
    for name, gradient in ours.items():
        theirs = dict(student.named_parameters())[name].grad
        assert torch.allclose(gradient * SIGMA_D / 64, theirs, rtol=1e-9, atol=1e-13), name
    values = objective(student, replace(images(), x_0=batch.x_0), 0).value
    assert torch.allclose(values / 64, losses.value, rtol=1e-12, atol=0)


def test_the_diffusion_tangent_is_the_consistency_tangent_of_a_jump_of_no_length():
    data, t = mixture(), T
    x_t, student = data.at(t), Student(data, 0.5)
    direction = data.at(t, seed=1)

    def function(x, time):
        return student(x, time, segment=t)

    whole = consistency_tangent(function, x_t, t, t - t, direction, SIGMA_D, 1.0)
    found = diffusion_tangent(function(x_t / SIGMA_D, t), direction, SIGMA_D)
    for one, other in ((found.g, whole.g), (found.first, whole.first), (found.output, whole.output)):
        assert torch.allclose(one, other, rtol=0, atol=1e-14)
    assert not found.second.any() and not whole.second.any() and found.g.abs().max() > 0.1


@both
def test_facms_loss_is_scds_and_the_diffusion_loss_at_the_same_places(data):
    """Both limited and weighted alike; g is -bend sigma_d cos^2 t f_0 of the jump, -bend sigma_d x_t of the anchor."""
    student = Student(data, 0.8, level=0.3)
    objective = FlowAnchoredDistillation(**PROPOSAL, teacher=data, tangent="clipped", anchor=0.5)
    losses = objective(student, data.batch(), 0)
    plain = ConsistencyDistillation(**PROPOSAL, teacher=data, tangent="clipped")
    expected, places = plain(Student(data, 0.8, level=0.3), data.batch(), 0), plain.places(data.batch())
    error = 0.8 * SIGMA_D * places.x_t
    anchor = math.exp(0.3) * (error**2).flatten(1).mean(dim=1) - 0.3
    assert torch.allclose(losses.value, expected.value + 0.5 * anchor, rtol=1e-9, atol=1e-12)
    assert torch.allclose(losses.parts["anchor"].value, anchor, rtol=1e-9, atol=1e-12)
    assert losses.figures.keys() == expected.figures.keys() and error.abs().max() < 1


def test_facm_tells_its_two_tasks_apart_by_the_second_time():
    told = []

    class Told(Student):
        def forward(self, x, t, labels=None, *, segment=None, guidance=None):
            told.append((segment, guidance, labels))
            return super().forward(x, t, labels, segment=segment)

    data = mixture()
    options = {"teacher": data, "guidance": (1.0, 1.0), "label_dropout": 0.5}
    objective = FlowAnchoredDistillation(**PROPOSAL, **options, anchor=1.0)
    losses = objective(Told(data), data.batch(labels=torch.arange(64) % 2), 0)
    (zero, scale, labels), (same, again, theirs) = told
    assert not zero.any() and torch.equal(same, losses.t)
    assert torch.equal(scale, again) and torch.equal(labels, theirs) and (labels < 0).any()


def test_ayf_draws_the_papers_times_and_keeps_a_share_of_the_straight_term():
    """On the linear path u - w is the sigmoid of N(p_mean, p_std^2) and w uniform below 1 - (u - w)."""
    data = gaussian()
    objective = FlowMapDistillation(**{**PROPOSAL, "p_std": 1.0}, teacher=data, r_max=0.9)
    t, jump = objective.jump(data.batch(4096))
    s = jump["segment"]
    u, w = (torch.tan(each) / (1 + torch.tan(each)) for each in (t, s))
    assert (s >= 0).all() and (s < t).all() and (t < math.pi / 2).all()
    logit = torch.special.logit(u - w)
    assert logit.mean().item() == pytest.approx(-0.8, abs=0.06) and logit.std().item() == pytest.approx(1, abs=0.05)
    free = w / (1 - (u - w))
    assert free.mean().item() == pytest.approx(0.5, abs=0.02) and free.std().item() == pytest.approx(12**-0.5, abs=0.01)
    x_t, student = data.at(T), Student(data, 0.5)
    direction = SIGMA_D * data(x_t / SIGMA_D, T)

    def tangent(r):
        return objective.tangent_of(lambda x, t: student(x, t, segment=S), x_t, T, {"segment": S}, direction, r)

    assert torch.equal(tangent(1.0).g, tangent(0.9).g) and not torch.equal(tangent(0.5).g, tangent(0.9).g)
    assert torch.equal(tangent(0.9).first, tangent(0.5).first)


def test_ayfs_latest_time_has_a_finite_noise_level_in_float32():
    t = time_of(torch.tensor([1.0, 0.999, 0.0]))
    assert torch.log(torch.tan(t[:2])).isfinite().all() and t[0] > t[1] and t[2] == 0
