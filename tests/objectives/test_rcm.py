"""rCM: one step is sCD + VSD to the bit; samples of several steps by their definition, and on Gaussian data."""

import math

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.networks.model import LogWeight
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch
from scm.objectives.rcm import ScoreRegularizedConsistency
from scm.objectives.scd_vsd import ConsistencyAndScoreDistillation
from scm.objectives.score_distillation import FakeScore
from tests.support.closed_forms import SIGMA_D, T_MAX, Data, Student
from tests.support.models import tiny_model

VSD = {"sigma_d": SIGMA_D, "t_max": T_MAX, "weight": 0.7, "p_mean": 0.4, "p_std": 1.1}
VSD |= {"fake_p_mean": -0.9, "fake_p_std": 1.5, "guidance": (1.0, 3.0), "label_dropout": 0.4}
SCM = {"sigma_d": SIGMA_D, "p_mean": -1.0, "p_std": 1.4, "guidance": (1.0, 3.0), "label_dropout": 0.4}


class Parts:
    """Student, fake score, teacher and an objective over them; all begin with the same numbers each time."""

    def __init__(self, kind=ScoreRegularizedConsistency, **changes: object) -> None:
        self.student, self.teacher = tiny_model(1, guidance=True), tiny_model(2)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.fake = FakeScore(tiny_model(3, guidance=True), LogWeight())
            nn.init.normal_(self.fake.log_weight_head.linear.weight, std=0.05)
        consistency = Distillation(**SCM, teacher=self.teacher)
        self.objective = kind(**{**VSD, **changes}, teacher=self.teacher, fake=self.fake, consistency=consistency)

    def double(self) -> "Parts":
        for module in (self.student, self.teacher, self.fake):
            module.double()
        return self


def batch(dtype: torch.dtype = torch.float32) -> Batch:
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randn(6, 1, 8, 8, generator=draws, dtype=dtype) * SIGMA_D, torch.arange(6) % 3, draws)


@pytest.mark.parametrize("updates", [1, 2])
def test_one_step_is_scd_and_vsd_to_the_bit(updates):
    """Losses, figures and gradients, in steps in which the student learns and in those in which it rests."""
    for step in range(3):
        found = []
        for parts in (
            Parts(steps=1, updates=updates), Parts(ConsistencyAndScoreDistillation, updates=updates),
        ):  # fmt: skip
            losses = parts.objective(parts.student, batch(), 6 * step)
            losses.value.mean().backward()
            modules = nn.ModuleList([parts.student, parts.fake])
            found.append((losses, {name: p.grad for name, p in modules.named_parameters() if p.grad is not None}))
        (ours, gradients), (theirs, expected) = found
        assert torch.equal(ours.value, theirs.value) and torch.equal(ours.t, theirs.t)
        for one, other in ((ours, theirs), *((ours.parts[name], part) for name, part in theirs.parts.items())):
            assert torch.equal(one.value, other.value) and one.figures.keys() == other.figures.keys()
            assert all(torch.equal(one.figures[name], value) for name, value in other.figures.items())
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], value) for name, value in expected.items())


def test_a_sample_of_several_steps_by_its_definition():
    """Three steps written out; the pull of L_VSD is -2 e^w / D difference / sin t_max times the sample's derivative."""
    parts = Parts(steps=3).double()
    student, again = parts.student, batch(torch.float64)
    losses = parts.objective(student, batch(torch.float64), 6 * 2)  # 0, 1 and 2 further steps take turns
    parts.objective.consistency(student, again, 6 * 2)
    labels = torch.where(
        again.normal() < torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.4)), -1, again.labels
    )
    inputs = {"guidance": 1 + 2 * again.uniform()}
    x, t = again.normal(1, 8, 8) * SIGMA_D, torch.full((6,), T_MAX, dtype=torch.float64)
    times = [t]
    for _ in range(2):
        x_0 = trigflow.denoise(x, t, student(x / SIGMA_D, t, labels, **inputs), SIGMA_D).detach()
        proposed = trigflow.propose_times(again.normal(), 0.4, 1.1, SIGMA_D)
        t = torch.where(proposed < t, proposed, t)
        x = trigflow.interpolate(x_0, again.normal(1, 8, 8) * SIGMA_D, t)
        times.append(t)
    assert (times[2] <= times[1]).all() and (times[2] < times[1]).any() and (times[1] < T_MAX).any()
    sample = trigflow.denoise(x, t, student(x / SIGMA_D, t, labels, **inputs), SIGMA_D)
    norm = sample.detach().square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.allclose(losses.parts["fake"].figures["sample_norm"], norm, rtol=1e-12)

    at = trigflow.propose_times(again.normal(), 0.4, 1.1, SIGMA_D)
    x_t = trigflow.interpolate(sample.detach(), again.normal(1, 8, 8) * SIGMA_D, at)
    with torch.no_grad():
        fake = parts.fake.network(x_t / SIGMA_D, at, labels, **inputs)
        none, known = (parts.teacher(x_t / SIGMA_D, at, which) for which in (torch.full_like(labels, -1), labels))
        difference = fake - none - inputs["guidance"][:, None, None, None] * (known - none)
        weight = parts.fake.log_weight_head(at).exp()[:, None, None, None]
    pull = (-2 * weight * difference / 64 * sample / math.sin(T_MAX)).sum()
    weights = [p for name, p in student.named_parameters() if "log_weight" not in name]
    found, expected = (
        torch.autograd.grad(value, weights, retain_graph=True) for value in (losses.parts["vsd"].value.sum(), pull)
    )
    assert all(torch.allclose(*pair, rtol=1e-8, atol=1e-11) for pair in zip(found, expected, strict=True))
    assert max(gradient.abs().max() for gradient in found) > 1e-4


@pytest.mark.parametrize("updates", [1, 3])
def test_numbers_of_steps_take_turns_for_both_networks_and_only_the_last_step_has_a_graph(updates):
    parts, recorded = Parts(steps=3, updates=updates), []
    parts.student.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    learning, resting = [], []
    for step in range(3 * updates):
        recorded.clear()
        parts.objective(parts.student, batch(), 6 * step)
        learns = step % updates == updates - 1
        ours = recorded[1:] if learns else recorded  # sCD's own evaluation comes first
        assert ours == [False] * (len(ours) - 1) + [learns]
        (learning if learns else resting).append(len(ours))
    assert sorted(learning) == [1, 2, 3]
    assert updates == 1 or sorted(set(resting)) == [1, 2, 3]


WIDTH, AT = 0.3, math.atan(math.exp(0.2) / SIGMA_D)
"""Settings for Gaussian data, and the time of the second step and of the comparison, of which p_std = 0 leaves one."""


class Drawn(Student):
    """A bent f* of N(0, WIDTH^2), with the widths of its samples of one step and of two."""

    def __init__(self, bend: float) -> None:
        super().__init__(Data((1.0,), (0.0,), WIDTH), bend)

    def widths(self) -> list[float]:
        found = [SIGMA_D]
        for t in (T_MAX, AT):
            before = math.hypot(math.cos(t) * found[-1], math.sin(t) * SIGMA_D) if t == AT else SIGMA_D
            flow = WIDTH / math.hypot(math.cos(t) * WIDTH, math.sin(t) * SIGMA_D)
            found.append(before * flow * (1 - self.bend.item() * SIGMA_D * math.sin(t)))
        return found[1:]


def gaussian(student: Drawn, step: int, **changes) -> ScoreRegularizedConsistency:
    """The objective with the exact scores of the data, and of the student's samples in this step."""
    fake = FakeScore(Data((1.0,), (0.0,), student.widths()[step % 2]), LogWeight())
    settings = {**VSD, "weight": 1.0, "p_mean": 0.2, "p_std": 0.0, "guidance": None, "label_dropout": 0.0, **changes}
    scm = Distillation(sigma_d=SIGMA_D, p_mean=-0.8, p_std=1.2, teacher=student.data)
    return ScoreRegularizedConsistency(
        **settings, steps=2, adaptive_weighting=False, teacher=student.data, fake=fake, consistency=scm
    )


@pytest.mark.parametrize("bend", [0.5, -0.5])
def test_two_steps_on_gaussian_data_in_closed_form(bend):
    """sigma_d (F_fake - F_teacher) = cos sin (v^2 - s^2) ... x, known from both widths; the pull leads to bend = 0."""
    student = Drawn(bend)
    source = student.data.batch(20_000)
    losses = gaussian(student, 1)(student, source, 20_000)
    losses.parts["vsd"].value.mean().backward()
    cos, sin = math.cos(AT), math.sin(AT)
    before, width = math.hypot(cos * student.widths()[0], sin * SIGMA_D), student.widths()[1]
    assert losses.parts["fake"].figures["sample_norm"].square().mean().item() == pytest.approx(width**2, rel=0.02)
    own, data = ((cos * each) ** 2 + (sin * SIGMA_D) ** 2 for each in (width, WIDTH))
    slope = cos * sin * ((SIGMA_D**2 - width**2) / own - (SIGMA_D**2 - WIDTH**2) / data) / SIGMA_D
    flow = WIDTH / math.hypot(cos * WIDTH, sin * SIGMA_D)  # f = flow (1 - bend sigma_d sin) x
    sample = flow * (1 - bend * SIGMA_D * sin)
    # d vsd / d bend = 2 slope x_c (-1 / sin t_max) d sample / d bend, with E x_c sample' = cos sample flow E x^2
    expected = 2 * slope * cos * sample * flow * SIGMA_D * sin * before**2 / math.sin(T_MAX)
    assert student.bend.grad.item() == pytest.approx(expected, rel=0.03)
    assert student.bend.grad * bend > 0


@pytest.mark.parametrize("bend", [0.5, -0.5])
def test_the_fixed_point_is_the_exact_solution(bend):
    student = Drawn(bend)
    for step in range(40):
        student.zero_grad()
        made = gaussian(student, step)
        made(student, student.data.batch(16, step), 16 * step).value.mean().backward()
        with torch.no_grad():
            student.bend -= 0.5 * student.bend.grad
    assert abs(student.bend.item()) < 1e-3
