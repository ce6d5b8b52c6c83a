"""DMD: the sum of KD's loss and of score distillation, which learn in the same steps; its fixed point on known data."""

import math

import pytest
import torch

from scm.networks.model import LogWeight
from scm.objectives.dmd import DistributionMatching
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.score_distillation import FakeScore
from scm.samplers.ode import edm_sigmas
from tests.objectives.test_rcm import VSD, WIDTH, Drawn, Parts, batch
from tests.support.closed_forms import SIGMA_D, Data


def regression(teacher, steps: int = 5, **changes) -> TrajectoryDistillation:
    values = {"classes": 3, "kept": 4, "uses": 2, "from_noise": 0.3, "p_mean": -1.0, "p_std": 1.4, "seed": 4, **changes}
    return TrajectoryDistillation(
        sigma_d=SIGMA_D, teacher=teacher, sigmas=tuple(edm_sigmas(steps, 0.002, 80.0, 7.0)), **values
    )


@pytest.mark.parametrize("updates", [1, 2])
def test_kds_loss_and_the_weighted_score_distillation_add_up_in_the_steps_in_which_the_student_learns(updates):
    parts = Parts(steps=2)
    kd = regression(parts.teacher, guidance=(1.0, 3.0), label_dropout=0.4, every=updates)
    settings = {**VSD, "steps": 2, "updates": updates, "teacher": parts.teacher, "fake": parts.fake}
    objective = DistributionMatching(**settings, consistency=kd)
    for step in range(4):
        losses = objective(parts.student, batch(), 6 * step)
        if (step + 1) % updates:
            assert set(losses.parts) == {"fake"} and torch.equal(losses.value, losses.parts["fake"].value)
            continue
        alone = kd(parts.student, batch(), 6 * step)
        expected = alone.value + 0.7 * losses.parts["vsd"].value + losses.parts["fake"].value
        assert torch.allclose(losses.value, expected, rtol=1e-6) and torch.equal(losses.t, alone.t)
        assert losses.figures.keys() == alone.figures.keys() and set(losses.parts) == {"vsd", "fake"}


@pytest.mark.parametrize("bend", [0.5, -0.5])
def test_the_fixed_point_is_the_exact_solution(bend):
    """The exact scores of data and samples, and trajectories whose solver errs little."""
    student = Drawn(bend)
    for step in range(20):
        student.zero_grad()
        fake = FakeScore(Data((1.0,), (0.0,), student.widths()[step % 2]), LogWeight())
        settings = {**VSD, "weight": 1.0, "p_mean": 0.2, "p_std": 0.0, "guidance": None, "label_dropout": 0.0}
        kd = regression(
            student.data, 60, classes=0, adaptive_weighting=False, from_noise=0.0, p_std=0.0, p_mean=math.log(0.3)
        )
        made = DistributionMatching(
            **settings, steps=2, adaptive_weighting=False, teacher=student.data, fake=fake, consistency=kd
        )
        made(student, student.data.batch(16, step), 16 * step).value.mean().backward()
        with torch.no_grad():
            student.bend -= 3.0 * student.bend.grad
    assert student.data.width == WIDTH and abs(student.bend.item()) < 0.03
