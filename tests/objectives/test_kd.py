"""Distillation of whole trajectories: against data with a known flow, and where its trajectories come from."""

import math
from dataclasses import replace

import pytest
import torch

from scm import trigflow
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.protocol import Batch
from scm.samplers.guidance import guided
from scm.samplers.ode import edm_sigmas, heun
from tests.support.closed_forms import DATA, SIGMA_D, T_MAX, Student, mixture
from tests.support.models import tiny_model

NOISE = (0.002, 80.0, 7.0)
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


def kd(teacher, *, steps: int = 18, **changes) -> TrajectoryDistillation:
    values = {
        "classes": 0,
        "kept": 4,
        "uses": 2,
        "from_noise": 0.25,
        "p_mean": -0.5,
        "p_std": 1.5,
        "seed": 0,
        **changes,
    }
    return TrajectoryDistillation(sigma_d=SIGMA_D, teacher=teacher, sigmas=tuple(edm_sigmas(steps, *NOISE)), **values)


def batch(count: int = 8, seed: int = 0, rank: int = 0, world: int = 1) -> Batch:
    """This rank's part of a batch; the data are of no use to the objective, and so not a number."""
    x_0 = torch.full((count, 1, 8, 8), float("nan"), dtype=torch.float64)
    return Batch(x_0, torch.full((count,), -5), torch.Generator().manual_seed(seed), rank, world)


@both
def test_every_point_and_its_end_lie_on_the_same_trajectory(data):
    """x_t carried to 0 by the flow in closed form; the solver's error falls with the square of its steps."""

    def error(steps: int) -> float:
        x_t, x_0, t, labels, inputs = kd(data, steps=steps).places(data.batch(64), 0)
        assert (labels == -1).all() and inputs == {} and len(t.unique()) > 5
        return (data.flow(x_t, t, torch.zeros_like(t)) - x_0).square().mean().sqrt().item()

    coarse, fine = error(24), error(48)
    assert fine < 2e-3 and coarse / fine > 3


@both
@pytest.mark.parametrize("adaptive", [True, False])
def test_loss_and_pull_on_known_data(data, adaptive):
    """A solution bent by b: sigma_d F errs by b sigma_d f*, so the loss is quadratic in b, and exact at b = 0."""
    objective, bend, level = kd(data, steps=200, adaptive_weighting=adaptive), 0.8, 0.3
    student = Student(data, bend, level)
    losses = objective(student, data.batch(32), 0)
    _, x_0, t, *_ = objective.places(data.batch(32), 0)
    squared = (SIGMA_D * bend * x_0).square().flatten(1).mean(dim=1)
    weight = math.exp(level) if adaptive else 1.0
    expected = weight * squared - (level if adaptive else 0.0)
    assert torch.equal(losses.t, t) and losses.value.tolist() == pytest.approx(expected.tolist(), rel=2e-2, abs=2e-4)
    assert losses.figures["squared_error"].tolist() == pytest.approx((squared / 0.25).tolist(), rel=2e-2, abs=1e-3)
    losses.value.mean().backward()
    assert student.bend.grad.item() == pytest.approx((weight * squared * 2 / bend).mean().item(), rel=1e-2)
    found = 0.0 if student.level.grad is None else student.level.grad.item()
    assert found == pytest.approx((weight * squared).mean().item() - 1 if adaptive else 0, rel=1e-2)
    exact = objective(Student(data), data.batch(32), 0)
    assert exact.value.abs().max() < 1e-4


def test_the_target_by_the_formula():
    """sigma_d F* = (cos t x_t - x_0) / sin t, so that f = x_0, whatever the student is."""
    objective, student = kd(tiny_model(2).double(), steps=6), tiny_model(1).double()
    losses = objective(student, batch(), 0)
    x_t, x_0, t, labels, _ = objective.places(batch(), 0)
    f = trigflow.denoise(x_t, t, student(x_t / SIGMA_D, t, labels), SIGMA_D)
    squared = ((f - x_0) / torch.sin(t)[:, None, None, None]).square().flatten(1).mean(dim=1)
    log_weight = student.log_weight(t)
    assert torch.allclose(losses.value, log_weight.exp() * squared - log_weight, rtol=1e-9)


def test_the_ends_are_the_samplers_and_the_points_start_at_its_noise():
    teacher = tiny_model(2).double()
    objective = kd(teacher, steps=5, classes=3, from_noise=1.0, uses=1)
    noise = objective.places(batch(), 0)
    at_noise, end, t, labels = noise[0], noise[1], noise[2], noise[3]
    assert t.tolist() == pytest.approx([T_MAX] * 8) and labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    start = at_noise / math.cos(T_MAX) / 80
    expected = heun(lambda x, time: teacher(x, time, labels), start, edm_sigmas(5, *NOISE), SIGMA_D)
    assert torch.allclose(end, expected, rtol=1e-9, atol=1e-12)
    drawn = [kd(mixture(), steps=2, from_noise=1.0).places(mixture().batch(2000, seed), 0)[0] for seed in range(2)]
    every = torch.cat(drawn) / (80 * math.cos(T_MAX))
    assert every.mean().abs() < 0.05 and every.std() == pytest.approx(1, abs=0.05)


def test_times_are_proposed_and_move_up_to_the_grid():
    objective = kd(mixture(), steps=30, from_noise=0.3, p_mean=-0.5, p_std=1.0)
    ascending = sorted(math.atan(sigma / SIGMA_D) for sigma in edm_sigmas(30, *NOISE)[:-1])
    t = objective.places(mixture().batch(5000), 0)[2]
    share = (t > ascending[-2]).double().mean().item()
    assert share == pytest.approx(0.3, abs=0.02)
    sigma = SIGMA_D * torch.tan(t[t <= ascending[-2]])
    for time in ascending[10:25:3]:
        level = SIGMA_D * math.tan(time)
        below = 0.5 * (1 + math.erf((math.log(level) + 0.5) / 2**0.5))
        assert (sigma <= level * 1.0001).double().mean().item() == pytest.approx(below, abs=0.03)


@pytest.mark.parametrize("every", [1, 2])
def test_each_batch_of_trajectories_is_used_as_often_as_asked_and_replaced_at_its_own_turn(every):
    objective = kd(tiny_model(2).double(), steps=2, kept=4, uses=3, every=every)
    solved: list[set[int]] = [set() for _ in range(9)]
    ends: list[list[torch.Tensor]] = [[] for _ in range(4)]
    for number in range(4 * 9):
        turn, slot = divmod(number, 4)
        before = {key: generation for key, (generation, _) in objective.solved.items()}
        step = every * number + every - 1
        ends[slot].append(objective.places(batch(4, seed=step), 4 * step)[1].flatten(1))
        after = {key: generation for key, (generation, _) in objective.solved.items()}
        solved[turn] |= {key[3] for key, generation in after.items() if before.get(key) != generation}
    assert solved == [{0, 1, 2, 3}, {3}, {2}, {0, 1}, {3}, {2}, {0, 1}, {3}, {2}]
    for slot, counts in enumerate([[3, 3, 3], [3, 3, 3], [1, 2, 3, 3], [1, 2, 3, 3]]):
        _, found = torch.cat(ends[slot]).unique(dim=0, return_counts=True)
        assert sorted(found.tolist()) == sorted(counts * 4)
    assert len(torch.cat([end for slot in ends for end in slot]).unique(dim=0)) == 4 * 14


def test_all_classes_take_turns_even_where_they_are_more_than_the_trajectories_that_are_kept():
    objective, found = kd(tiny_model(2, classes=40).double(), steps=2, classes=40, kept=2, uses=1), []
    for step in range(10):
        found += objective.places(batch(4, seed=step), 4 * step)[3].tolist()
    assert sorted(found) == list(range(40))


def test_trajectories_do_not_depend_on_history_or_on_the_number_of_ranks():
    teacher = tiny_model(2).double()
    first, later = kd(teacher, steps=3, guidance=(1.0, 3.0), label_dropout=0.4, classes=3), []
    for step in (0, 1, 9, 10):
        whole = first.places(batch(8, seed=step), 8 * step)
        resumed = kd(teacher, steps=3, guidance=(1.0, 3.0), label_dropout=0.4, classes=3)
        parts = [resumed.places(batch(2, step, rank, 4), 8 * step) for rank in range(4)]
        for index in range(4):
            assert torch.allclose(
                whole[index].double(), torch.cat([part[index] for part in parts]).double(), atol=1e-12
            )
        scales = torch.cat([part[4]["guidance"] for part in parts])
        assert torch.equal(scales, whole[4]["guidance"])
        assert len(resumed.solved) == 4  # each rank's, as one process may have all parts of a batch
        later.append(whole[1])
    assert not torch.equal(later[0], later[1]) and not torch.equal(later[1], later[2])
    other = kd(teacher, steps=3, guidance=(1.0, 3.0), label_dropout=0.4, classes=3, seed=1)
    assert not torch.equal(other.places(batch(8), 0)[1], later[0])


def test_smaller_parts_of_a_batch_leave_no_trajectories_of_larger_ones_behind():
    objective = kd(tiny_model(2).double(), steps=2)
    objective.places(batch(8), 0)
    objective.places(batch(4, rank=0, world=2), 0)
    assert list(objective.solved) == [(8, 2, 0, 0)]


def test_the_teacher_is_guided_and_the_student_is_told():
    teacher, scales, names = tiny_model(2).double(), [], []
    objective = kd(teacher, steps=4, guidance=(1.5, 4.0), label_dropout=0.5, classes=3, from_noise=1.0)

    class Told(torch.nn.Module):
        def forward(self, x, t, labels, *, guidance):
            scales.append(guidance)
            names.append(labels)
            return x

        def log_weight(self, t):
            return torch.zeros_like(t)

    objective(Told(), batch(24), 0)
    x_t, x_0, *_ = objective.places(batch(24), 0)
    (scale,), (labels,) = scales, names
    assert 1.5 <= scale.min() < 1.9 and 3.6 < scale.max() < 4.0 and len(scale.unique()) == 24
    assert 0.2 < (labels == -1).double().mean() < 0.8 and set(labels.tolist()) == {-1, 0, 1, 2}
    start = x_t / math.cos(T_MAX) / 80
    expected = heun(lambda x, t: guided(teacher, x, t, labels, scale), start, edm_sigmas(4, *NOISE), SIGMA_D)
    assert torch.allclose(x_0, expected, rtol=1e-9, atol=1e-12)


def test_the_student_alone_has_a_graph():
    student, teacher = tiny_model(1).double(), tiny_model(2).double()
    kd(teacher, steps=3, classes=3)(student, replace(batch(), labels=torch.zeros(8).long()), 0).value.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
