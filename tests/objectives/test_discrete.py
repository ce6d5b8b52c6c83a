"""Discrete-time consistency distillation (app. E): an exact difference, its limit, and the grid it steps on."""

import math

import pytest
import torch

from scm import trigflow
from scm.objectives.consistency import consistency_tangent
from scm.objectives.discrete import DiscreteDistillation, discrete_tangent, time_grid
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.samplers import edm_sigmas
from tests.support.closed_forms import DATA, SIGMA_D, Student, gaussian, mixture
from tests.support.models import tiny_model

T = torch.tensor([0.3, 0.7, 1.1, 1.5], dtype=torch.float64)
EARLIER = torch.tensor([0.0, 0.6, 0.8, 1.49], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, -1])
PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6


def student_and_direction():
    student, teacher = tiny_model(1).double(), tiny_model(2).double()
    with torch.no_grad():
        direction = SIGMA_D * teacher(images() / SIGMA_D, T, LABELS)
    return lambda x, t: student(x, t, LABELS), direction


def cos(angle: torch.Tensor) -> torch.Tensor:
    return torch.cos(angle)[:, None, None, None]


def sin(angle: torch.Tensor) -> torch.Tensor:
    return torch.sin(angle)[:, None, None, None]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_rounding_figure_is_what_rounding_of_the_network_does_to_g(kind):
    """On a fine grid, where neighbours differ by less than the format tells; the error is of the figure's size."""
    data, grid = gaussian(), time_grid(1024, 0.002, 80.0, 7.0, SIGMA_D)
    chosen = torch.tensor(grid[100::100], dtype=torch.float64)
    earlier = torch.tensor(grid[99::100][: len(chosen)], dtype=torch.float64)
    x_t = torch.randn(len(chosen), 1, 1, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * SIGMA_D
    direction, roundoff = data.velocity(x_t, chosen), torch.finfo(kind).eps / 2

    def found(function):
        return discrete_tangent(function, x_t, chosen, earlier, direction, SIGMA_D, 1.0, roundoff)

    exact, rounded = found(data), found(lambda x, t: data(x, t).to(kind).double())
    error = (exact.second - rounded.second).flatten(1).norm(dim=1)
    ratio = error / exact.figures["rounding"]
    assert ratio.max() < 2 and ratio.median() > 0.2
    assert found(data).figures["rounding"].max() > 30 * roundoff  # the division by sin(t - t') makes it grow


def f(function, x, t):
    return cos(t) * x - sin(t) * SIGMA_D * function(x / SIGMA_D, t).detach()


def test_delta_is_the_difference_of_f_between_two_points_exactly():
    """g = cos t (f(x_t, t) - f(x_t', t')) / sin(t - t') with x_t' one DDIM step away; also at t' = 0, where f = x."""
    function, direction = student_and_direction()
    x_t, step = images(), T - EARLIER
    x_earlier = cos(step) * x_t - sin(step) * direction
    expected = cos(T) * (f(function, x_t, T) - f(function, x_earlier, EARLIER)) / sin(step)
    tangent = discrete_tangent(function, x_t, T, EARLIER, direction, SIGMA_D, r=1.0)
    assert torch.allclose(tangent.g, expected, rtol=0, atol=1e-12)
    assert torch.equal(tangent.g, tangent.first + tangent.second)
    first = -cos(T) * cos(EARLIER) * (SIGMA_D * tangent.output.detach() - direction)
    assert torch.allclose(tangent.first, first, rtol=0, atol=1e-13)
    ends = -cos(T) * (SIGMA_D * tangent.output.detach() - direction)  # at t' = 0 nothing but the teacher speaks
    assert torch.allclose(tangent.g[0], ends[0], rtol=0, atol=1e-13)
    assert tangent.output.requires_grad and not tangent.g.requires_grad


def test_the_warm_up_scales_the_second_term_alone():
    function, direction = student_and_direction()
    whole, part = (discrete_tangent(function, images(), T, EARLIER, direction, SIGMA_D, r) for r in (1.0, 0.3))
    assert torch.equal(part.first, whole.first)
    assert torch.allclose(part.second, 0.3 * whole.second, rtol=0, atol=1e-14)


def test_delta_tends_to_the_derivative_with_the_step():
    """Both terms' errors are of first order: half the step, half the error."""
    function, direction = student_and_direction()
    limit = consistency_tangent(function, images(), T, T, direction, SIGMA_D, 1.0)

    def errors(h: float) -> tuple[float, float]:
        found = discrete_tangent(function, images(), T, T - h, direction, SIGMA_D, 1.0)
        return (found.first - limit.first).norm().item(), (found.second - limit.second).norm().item()

    for coarse, fine in zip(errors(2e-4), errors(1e-4), strict=True):
        assert coarse / fine == pytest.approx(2, abs=0.01)
    assert max(errors(1e-6)) < 1e-3


@both
def test_delta_on_known_data(data):
    """Of the exact solution only the DDIM step's own error is left: first order again, in closed form f*(x_t')."""
    x_t, teacher = data.at(T), SIGMA_D * data(data.at(T) / SIGMA_D, T)
    student, zero = Student(data), torch.zeros_like(T)

    def g(h: float) -> torch.Tensor:
        return discrete_tangent(student, x_t, T, T - h, teacher, SIGMA_D, 1.0).g

    landed = data.flow(math.cos(0.05) * x_t - math.sin(0.05) * teacher, T - 0.05, zero)
    expected = cos(T) * (data.flow(x_t, T, zero) - landed) / math.sin(0.05)
    assert torch.allclose(g(0.05), expected, rtol=0, atol=1e-10)
    assert (g(2e-3).norm() / g(1e-3).norm()).item() == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_evaluations_drop_the_same_units(dropout):
    """Else Delta would be noise over a small step. And the draws left to the next layer are those of one evaluation."""
    student, (_, direction) = tiny_model(1, dropout=dropout).double().train(), student_and_direction()
    arguments = (lambda x, t: student(x, t, LABELS), images(), T)
    torch.manual_seed(5)
    limit = consistency_tangent(*arguments, T, direction, SIGMA_D, 1.0)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    found = discrete_tangent(*arguments, T - 1e-5, direction, SIGMA_D, 1.0)
    assert torch.allclose(found.output, limit.output, rtol=0, atol=1e-12)
    assert torch.allclose(found.g, limit.g, rtol=0, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), after)


def test_only_the_later_evaluation_has_a_graph():
    function, direction = student_and_direction()
    graphs = []

    def watched(x, t):
        graphs.append((t[1].item(), torch.is_grad_enabled()))
        return function(x, t)

    discrete_tangent(watched, images(), T, EARLIER, direction, SIGMA_D, 1.0)
    assert graphs == [(0.6, False), (0.7, True)]


def test_the_grid_is_edms_noise_levels_as_times():
    grid = time_grid(5, 0.002, 80.0, 7.0, SIGMA_D)
    assert [SIGMA_D * math.tan(t) for t in grid] == pytest.approx(edm_sigmas(5, 0.002, 80.0, 7.0)[::-1], rel=1e-9)
    assert grid[0] == 0 and len(grid) == 6 and list(grid) == sorted(grid)
    assert grid[-1] == math.atan(160)


class Quantiles(Batch):
    """Normal draws that are the distribution's quantiles, so that counts are probabilities."""

    def normal(self, *shape: int) -> torch.Tensor:
        middle = (torch.arange(self.size, dtype=torch.float64) + 0.5) / self.size
        return torch.distributions.Normal(0.0, 1.0).icdf(middle)


def test_times_have_the_probabilities_of_their_intervals():
    """P(t_i) = P(t_{i-1} < t <= t_i) of the log-normal proposal; what lies beyond t_N belongs to it."""
    count, grid = 20_000, time_grid(8, 0.1, 2.0, 7.0, SIGMA_D)
    objective = DiscreteDistillation(**PROPOSAL, teacher=gaussian(), grid=grid)
    times = objective.times(Quantiles(torch.zeros(count, 1, dtype=torch.float64), LABELS, torch.Generator()))
    below = [0.5 * (1 + math.erf((math.log(SIGMA_D * math.tan(t)) + 0.8) / 1.2 / 2**0.5)) for t in grid[1:-1]]
    bounds = [0.0, *below, 1.0]
    for point, low, high in zip(grid[1:], bounds, bounds[1:], strict=False):
        assert abs((times == point).sum().item() - count * (high - low)) <= 1.01, point
    assert (times == 0).sum() == 0


def test_t_prime_is_the_point_before_t():
    """For every point of the grid, the first of which steps to 0."""
    grid = time_grid(5, 0.1, 2.0, 7.0, SIGMA_D)
    objective = DiscreteDistillation(**PROPOSAL, teacher=gaussian(), grid=grid)
    asked = []

    def function(x, t):
        asked.append(t)
        return x

    t = torch.tensor(grid[1:], dtype=torch.float64)
    objective.tangent_of(function, gaussian().at(t), t, {}, gaussian().at(t), 1.0)
    first, *others = grid[1:]  # at t' = 0 nothing is asked for there
    assert asked[0].tolist() == [first, first, *others[:-1]] and asked[1].tolist() == [first, *others]


def test_the_end_of_the_grid_is_finite_for_a_network_that_is_told_ln_sigma():
    """ln tan 0 is infinite; what the network would answer there is multiplied by sin 0."""
    x_t, t = images()[:1], torch.tensor([0.1], dtype=torch.float64)
    direction = 0.3 * x_t
    student = tiny_model(1, c_noise="log_sigma", dropout=0.0).double().train()
    found = discrete_tangent(lambda x, time: student(x, time, LABELS[:1]), x_t, t, 0 * t, direction, SIGMA_D, 1.0)
    assert found.g.isfinite().all() and not found.second.any()
    expected = -math.cos(0.1) * (SIGMA_D * found.output.detach() - direction)
    assert torch.allclose(found.g, expected, atol=1e-14)


def test_the_loss_is_made_of_the_grids_tangent():
    """The objective whole: times moved up to the grid, the guided step of the teacher, the warm-up, the weight."""
    grid, data = time_grid(6, 0.05, 5.0, 7.0, SIGMA_D), mixture()
    student = Student(data, 2.0, level=0.4)
    objective = DiscreteDistillation(**PROPOSAL, teacher=data, grid=grid, tangent="raw", tangent_warmup=100)
    losses = objective(student, data.batch(), 30)
    again, points = data.batch(), torch.tensor(grid, dtype=torch.float64)
    proposed = trigflow.propose_times(again.normal(), -0.8, 1.2, SIGMA_D)
    which = torch.stack([(points[1:-1] < t).sum() + 1 for t in proposed])
    t, earlier = points[which], points[which - 1]
    x_t = trigflow.interpolate(again.x_0, again.normal(1, 1, 2) * SIGMA_D, t)
    direction = SIGMA_D * data(x_t / SIGMA_D, t)
    g = discrete_tangent(student, x_t, t, earlier, direction, SIGMA_D, 0.3).g
    assert torch.equal(losses.t, t)
    assert torch.allclose(losses.value, math.exp(0.4) * (g**2).flatten(1).mean(dim=1) - 0.4, rtol=1e-10)
    losses.value.sum().backward()
    pull = -math.exp(0.4) * (g * data.flow(x_t, t, torch.zeros_like(t))).sum()
    assert student.bend.grad.item() == pytest.approx(pull.item(), rel=1e-9)


@both
def test_the_fixed_point_tends_to_the_exact_solution_with_the_grid(data):
    """The bend where the gradient is zero is proportional to the step: twice the points, half of it."""

    def gradient(bend: float, points: int) -> float:
        grid = time_grid(points, 0.01, 20.0, 7.0, SIGMA_D)
        objective = DiscreteDistillation(**PROPOSAL, teacher=data, grid=grid, tangent="raw")
        student, t = Student(data, bend), torch.tensor(grid[1:], dtype=torch.float64).repeat(50)
        x_t = data.at(t)
        tangent = objective.tangent_of(student, x_t, t, {}, SIGMA_D * data(x_t / SIGMA_D, t), 1.0)
        loss = -(tangent.g * tangent.output).sum() / len(x_t)
        return torch.autograd.grad(loss, student.bend)[0].item()

    def fixed_point(points: int) -> float:
        """The gradient is linear in the bend."""
        at_zero, at_one = gradient(0.0, points), gradient(1.0, points)
        assert at_one > at_zero
        return at_zero / (at_zero - at_one)

    coarse, fine = fixed_point(100), fixed_point(200)
    assert coarse / fine == pytest.approx(2, abs=0.15)
    assert abs(fine) < 0.1


def test_a_fine_grid_gives_continuous_times_loss():
    data = mixture()
    student = Student(data, 0.5)
    fine = DiscreteDistillation(**PROPOSAL, teacher=data, grid=time_grid(100_000, 0.002, 80.0, 7.0, SIGMA_D))
    limit = ConsistencyDistillation(**PROPOSAL, teacher=data)
    found, expected = (objective(student, data.batch(), 0) for objective in (fine, limit))
    assert torch.allclose(found.t, expected.t, rtol=0, atol=1e-3) and (found.t >= expected.t).all()
    assert torch.allclose(found.figures["tangent_norm"], expected.figures["tangent_norm"], rtol=0.02, atol=1e-3)
