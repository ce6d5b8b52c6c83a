"""The multistep sampler with the exact jumps of known data lands where the ODE does."""

import pytest
import torch

from scm.objectives.multistep import segment_start
from scm.samplers import SampleNoise, consistency, jumps, multistep
from tests.support.closed_forms import DATA, SIGMA_D, T_MAX, Student, integrate, mixture


class Fixed(SampleNoise):
    """Float64 draws, counted."""

    def __init__(self, count: int = 6) -> None:
        super().__init__(range(count), [1, 1, 2])
        self.draws = 0

    def draw(self) -> torch.Tensor:
        self.draws += 1
        return super().draw().double()


@pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)
@pytest.mark.parametrize("segments", [1, 2, 3, 8])
def test_exact_jumps_land_where_the_ode_does(data, segments):
    student, noise = Student(data), Fixed()
    start = torch.full((6,), T_MAX, dtype=torch.float64)
    found = multistep(lambda x, t, t_k: student(x, t, segment=t_k), noise, segments, T_MAX, SIGMA_D)
    z = Fixed().draw() * SIGMA_D
    assert torch.allclose(found, data.flow(z, start, torch.zeros_like(start)), rtol=0, atol=1e-7)
    assert torch.allclose(found, integrate(data.velocity, z, start, torch.zeros_like(start)), rtol=0, atol=1e-6)
    assert noise.draws == 1  # deterministic after the start


@pytest.mark.parametrize("times", [[T_MAX, 0.0], [T_MAX, 1.2, 0.9, 0.88, 0.1, 0.0]], ids=len)
def test_exact_jumps_through_any_times_land_where_the_ode_does(times):
    data, noise = mixture(), Fixed()
    student, start = Student(data), torch.full((6,), T_MAX, dtype=torch.float64)
    found = jumps(lambda x, t, s: student(x, t, segment=s), noise, times, SIGMA_D)
    expected = data.flow(Fixed().draw() * SIGMA_D, start, torch.zeros_like(start))
    assert torch.allclose(found, expected, rtol=0, atol=1e-7) and noise.draws == 1


def test_a_jump_that_is_not_exact_shows():
    def landed(student: Student) -> torch.Tensor:
        return multistep(lambda x, t, t_k: student(x, t, segment=t_k), Fixed(), 3, T_MAX, SIGMA_D)

    found, expected = landed(Student(mixture(), bend=0.3)), landed(Student(mixture()))
    assert (found - expected).abs().max() > 0.02


def test_one_segment_is_one_step_of_consistency_sampling():
    student = Student(mixture(), bend=0.3)
    one = multistep(lambda x, t, t_k: student(x, t), Fixed(), 1, T_MAX, SIGMA_D)
    assert torch.equal(one, consistency(lambda x, t: student(x, t), Fixed(), [T_MAX], SIGMA_D))


def test_each_segment_is_entered_at_its_end_as_training_knows_it():
    calls = []

    def function(x, t, t_k):
        calls.append((t, t_k))
        return x * 0

    multistep(function, Fixed(), 3, 1.5, SIGMA_D)
    assert [t[0].item() for t, _ in calls] == pytest.approx([1.5, 1.0, 0.5])
    for t, t_k in calls:
        assert torch.allclose(segment_start(t - 1e-9, 3, 1.5), t_k, rtol=0, atol=1e-12)
