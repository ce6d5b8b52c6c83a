"""Variational score distillation on Gaussians, whose scores are all known, in float64."""

import math

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.score_distillation import FakeScore, ScoreDistillation, score_distillation_loss
from tests.support.closed_forms import SIGMA_D, T_MAX, Data, Student, gaussian, mixture

MEAN, WIDTH = 0.1, 0.3
DRAW = {"p_mean": 0.4, "p_std": 1.0, "fake_p_mean": -0.8, "fake_p_std": 1.6}


class Generator(nn.Module):
    """f(z, t_max) = mean + width z / sigma_d: samples N(mean, width^2)."""

    def __init__(self, mean: float, width: float) -> None:
        super().__init__()
        self.mean, self.width = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (mean, width))

    def forward(self, x, t, labels=None):
        assert (t == T_MAX).all()
        sample = self.mean + self.width * x
        return (math.cos(T_MAX) * x * SIGMA_D - sample) / (math.sin(T_MAX) * SIGMA_D)


class Normal(nn.Module):
    """The exact F of N(mean, width^2), of numbers or of a generator's, with or without a gradient to them."""

    def __init__(self, of: nn.Module, *, learns: bool = False) -> None:
        super().__init__()
        self.of, self.learns, self.level = [of], learns, nn.Parameter(torch.zeros((), dtype=torch.float64))
        if learns:
            self.own = of

    def forward(self, x, t, labels=None):
        mean, width = (each if self.learns else each.detach() for each in (self.of[0].mean, self.of[0].width))
        cos, sin = (trigflow.per_sample(angle, x) for angle in (torch.cos(t), torch.sin(t)))
        variance = cos**2 * width**2 + sin**2 * SIGMA_D**2
        return (cos * sin * (SIGMA_D**2 - width**2) / variance * (x * SIGMA_D - cos * mean) - sin * mean) / SIGMA_D

    def log_weight(self, t):
        return self.level.expand_as(t)


class Level(nn.Module):
    """w_psi, a constant."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, t):
        return self.value.expand_as(t)


def objective(fake: nn.Module, teacher: nn.Module | None = None, level: float = 0.0, **changes) -> ScoreDistillation:
    teacher = Normal(Generator(MEAN, WIDTH)) if teacher is None else teacher
    settings = {"sigma_d": SIGMA_D, "t_max": T_MAX, "weight": 1.0, **DRAW, **changes}
    return ScoreDistillation(**settings, teacher=teacher, fake=FakeScore(fake, Level(level)))


def batch(count: int, seed: int = 0):
    return Data((1.0,), (0.0,), 0.3, elements=4).batch(count, seed)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_shifted_mean_in_closed_form(level):
    """Of equal widths, sigma_d (F_fake - F_teacher) = -(mu - m) sin t sigma_d^2 / V: value and gradient, exactly."""
    generator = Generator(0.4, WIDTH)
    losses = objective(Normal(generator), level=level)(generator, batch(16), 0).parts["vsd"]
    sin, cos = torch.sin(losses.t), torch.cos(losses.t)
    difference = -(0.4 - MEAN) * sin * SIGMA_D / (cos**2 * WIDTH**2 + sin**2 * SIGMA_D**2)
    assert torch.allclose(losses.value, math.exp(level) * difference**2 - level, rtol=1e-11)
    assert torch.allclose(losses.figures["difference"], difference.abs() * 2, rtol=1e-11)  # of 4 elements
    losses.value.mean().backward()
    expected = -2 * math.exp(level) * SIGMA_D * difference.mean() / (math.sin(T_MAX) * SIGMA_D)
    assert generator.mean.grad.item() == pytest.approx(expected.item(), rel=1e-10)
    assert generator.mean.grad > 0  # so that a step lowers mu = 0.4 towards m = 0.1


@pytest.mark.parametrize(("mean", "width"), [(0.5, 0.3), (-0.4, 0.3), (0.1, 0.1), (0.1, 0.6)])
def test_a_step_goes_towards_the_data(mean, width):
    """The gradient of the width is, on average, 2 sigma_d E[difference dF/dwidth]; a step never leads away."""
    generator = Generator(mean, width)
    losses = objective(Normal(generator))(generator, batch(20_000), 0).parts["vsd"]
    losses.value.mean().backward()
    sin, cos = torch.sin(losses.t), torch.cos(losses.t)
    own, data = (cos**2 * each**2 + sin**2 * SIGMA_D**2 for each in (width, WIDTH))
    slope = cos * sin * ((SIGMA_D**2 - width**2) / own - (SIGMA_D**2 - WIDTH**2) / data) / SIGMA_D
    expected = -2 * (slope * cos * width).mean().item() / math.sin(T_MAX)
    assert generator.width.grad.item() == pytest.approx(expected, rel=0.05, abs=0.01)
    assert generator.width.grad * (width - WIDTH) >= 0
    assert generator.mean.grad * (mean - MEAN) >= (0.05 if mean != MEAN else 0)
    if width != WIDTH:
        assert generator.width.grad.abs() > 0.05


@pytest.mark.parametrize("data", [gaussian(), mixture()], ids=["gaussian", "mixture"])
def test_no_gradient_where_the_scores_agree(data):
    """Exactly zero, wherever the generator itself may be."""
    for generator in (Generator(0.4, 0.2), Student(data, 0.6)):
        losses = objective(data, data)
        losses = losses.generator_loss(*generated(losses, generator))
        losses.value.sum().backward()
        assert not losses.value.any() and not losses.figures["difference"].any()
        assert all(p.grad is None or not p.grad.any() for p in generator.parameters())


def generated(made: ScoreDistillation, generator: nn.Module):
    """The arguments of generator_loss: the batch, F, its sample, labels, inputs."""
    source = gaussian().batch(8)
    z = source.normal(1, 1, 2) * SIGMA_D
    t_max = torch.full((8,), T_MAX, dtype=torch.float64)
    output = generator(z / SIGMA_D, t_max)
    return source, output, trigflow.denoise(z, t_max, output, SIGMA_D).detach(), source.labels, {}


@pytest.mark.parametrize(("mean", "width"), [(0.5, 0.1), (-0.4, 0.6)])
def test_the_fixed_point_with_exact_scores_is_the_data(mean, width):
    generator = Generator(mean, width)
    made = objective(Normal(generator))
    for step in range(150):
        generator.zero_grad()
        made(generator, batch(256, step), 0).parts["vsd"].value.mean().backward()
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter -= 0.1 * parameter.grad
    assert generator.mean.item() == pytest.approx(MEAN, abs=1e-3)
    assert generator.width.item() == pytest.approx(WIDTH, abs=1e-3)


def test_generator_and_fake_score_learn_the_data_together():
    """The whole loss, of which each network takes its part: both end at the data's mean and width."""
    generator, learned = Generator(0.3, 0.2), Generator(MEAN, WIDTH)  # the fake score starts from the teacher
    made = objective(Normal(learned, learns=True), weight=0.2)
    groups = [{"params": generator.parameters(), "lr": 0.004}, {"params": learned.parameters(), "lr": 0.02}]
    optimizer = torch.optim.Adam(groups)
    for step in range(250):
        optimizer.zero_grad()
        made(generator, batch(256, step), 0).value.mean().backward()
        optimizer.step()
    for found in (generator, learned):
        assert found.mean.item() == pytest.approx(MEAN, abs=0.03)
        assert found.width.item() == pytest.approx(WIDTH, abs=0.03)


@pytest.mark.parametrize("bend", [0.5, -0.5])
def test_the_fixed_point_beside_scd_is_the_exact_solution(bend):
    """A bent f* of centred Gaussian data draws N(0, width^2); both losses end where the bend is 0."""
    data = Data((1.0,), (0.0,), WIDTH)
    student = Student(data, bend)

    class OfStudent(nn.Module):
        """The exact score of what the student draws."""

        def forward(self, x, t, labels=None):
            straight = WIDTH * SIGMA_D / math.sqrt((math.cos(T_MAX) * WIDTH) ** 2 + (math.sin(T_MAX) * SIGMA_D) ** 2)
            width = straight * (1 - student.bend.item() * SIGMA_D * math.sin(T_MAX))
            return Normal(Generator(0.0, width))(x, t)

        def log_weight(self, t):
            return torch.zeros_like(t)

    scm = ConsistencyDistillation(sigma_d=SIGMA_D, p_mean=-0.8, p_std=1.2, teacher=data)
    made = objective(OfStudent(), data, consistency=scm)
    for step in range(50):
        student.zero_grad()
        losses = made(student, data.batch(16, step), 0)
        losses.parts["vsd"].value.mean().backward(retain_graph=True)
        alone = student.bend.grad.clone()
        assert alone * student.bend > 0 or student.bend.abs() < 1e-3
        student.zero_grad()
        losses.value.mean().backward()
        assert (student.bend.grad - alone) * student.bend > 0 or student.bend.abs() < 1e-3  # sCD's own pull
        with torch.no_grad():
            student.bend -= 0.5 * student.bend.grad
    assert abs(student.bend.item()) < 1e-3


def test_the_fake_scores_loss_is_least_at_the_score_of_the_generators_samples():
    """There its gradient vanishes, and the loss is the conditional variance of v_t; the data do not matter."""
    generator = Generator(0.4, 0.2)

    def at(mean: float, width: float):
        learned = Generator(mean, width)
        losses = objective(Normal(learned, learns=True))(generator, batch(50_000), 0).parts["fake"]
        gradients = torch.autograd.grad(losses.value.mean(), list(learned.parameters()))
        return losses, [gradient.item() for gradient in gradients]

    exact, none = at(0.4, 0.2)
    _, lower = at(0.3, 0.1)
    _, upper = at(0.5, 0.3)
    for zero, low, high in zip(none, lower, upper, strict=True):
        assert low < -0.05 and high > 0.05 and abs(zero) < 0.05 * min(-low, high)
    sin, cos = torch.sin(exact.t), torch.cos(exact.t)
    expected = (0.2 * SIGMA_D) ** 2 / (cos**2 * 0.2**2 + sin**2 * SIGMA_D**2)
    assert exact.value.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)
    assert exact.figures["squared_error"].mean().item() == pytest.approx(expected.mean().item() / SIGMA_D**2, rel=0.02)


def test_w_psi_learns_where_the_weighted_difference_is_one():
    """d/dw (e^w l - w) = e^w l - 1; without adaptive weighting it stays, and weighs nothing."""
    generator = Generator(0.4, WIDTH)
    made = objective(Normal(generator), level=0.3)
    losses = made(generator, batch(16), 0).parts["vsd"]
    losses.value.mean().backward()
    squared = (losses.value + 0.3) / math.exp(0.3)
    gradient = made.fake.log_weight_head.value.grad.item()
    assert gradient == pytest.approx((math.exp(0.3) * squared.mean() - 1).item(), rel=1e-10)
    assert torch.equal(losses.figures["log_weight"], torch.full((16,), 0.3, dtype=torch.float64))
    plain = objective(Normal(generator), level=0.3, adaptive_weighting=False)
    losses = plain(generator, batch(16), 0).parts["vsd"]
    losses.value.mean().backward()
    assert plain.fake.log_weight_head.value.grad is None
    assert torch.allclose(losses.value, squared, rtol=1e-11) and not losses.figures["log_weight"].any()


def test_the_loss_function_by_its_definition():
    """exp(w) / D ||sigma_d (F - F^-) + difference||^2 - w; only the value of F - F^- is zero."""
    draws = torch.Generator().manual_seed(0)
    output, difference = torch.randn(2, 3, 1, 2, 4, generator=draws, dtype=torch.float64)
    output.requires_grad_()
    log_weight = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)
    value = score_distillation_loss(output, difference, log_weight, SIGMA_D)
    expected = log_weight.exp() * (difference**2).sum(dim=(1, 2, 3)) / 8 - log_weight
    assert torch.allclose(value, expected, atol=1e-14)
    (gradient,) = torch.autograd.grad(value.sum(), output)
    weight = log_weight.exp()[:, None, None, None]
    assert torch.allclose(gradient, 2 * weight / 8 * SIGMA_D * difference, atol=1e-14)
