"""The arithmetic of benchmarks/cost.py, by hand, and what it counts."""

import pytest

from benchmarks import cost
from benchmarks.cost import Assumed, Work
from benchmarks.step_cost import preset_params
from scm.errors import UserError

ASSUMED = Assumed(utilisation=0.5, inside=100, between=10, memory=10, price=2)
WORK = Work(
    forward=1e12, backward=3e12, activations=2**28, parameters=10**9, state=4, peak=8e12, batch=1024, images=2**20
)
"""4 TFLOP an image at 4 TFLOP/s: a second an image. 4 GB of gradients; 6.3 GiB of room for 25 images."""


def test_a_step_is_its_arithmetic_and_the_all_reduce_that_the_last_parts_backward_does_not_hide():
    node = cost.step(WORK, 8, ASSUMED)
    assert node.arithmetic == 128
    assert node.sending == pytest.approx(2 * 7 / 8 * 4e9 / 100e9)
    assert node.waiting == 0 and node.efficiency == 1
    nodes = cost.step(WORK, 1024, ASSUMED)
    assert nodes.arithmetic == 1
    assert nodes.sending == pytest.approx(2 * 1023 / 1024 * 4e9 / 10e9)
    assert nodes.waiting == pytest.approx(nodes.sending - 0.75)
    assert nodes.efficiency == pytest.approx(1 / nodes.seconds)


def test_parts_are_the_largest_that_the_memory_holds():
    assert cost.parts_in(WORK, 128, 10) == 8  # of 16 images
    assert cost.parts_in(WORK, 16, 10) == 1
    with pytest.raises(UserError, match="--memory 3: it does not hold the state and one image's activations"):
        cost.parts_in(WORK, 128, 3)


def test_scaling_ends_where_the_batch_or_the_efficiency_does():
    assert cost.end_of_scaling(WORK, ASSUMED) == 2048  # no image is left
    slow = Assumed(utilisation=0.5, inside=100, between=1, memory=10, price=2)
    # 8 s of sending, of which 0.75 s an image of the last part is hidden: first too long at 4 images a GPU.
    assert cost.step(WORK, 128, slow).efficiency > 0.5 > cost.step(WORK, 256, slow).efficiency
    assert cost.end_of_scaling(WORK, slow) == 256


def test_days_and_dollars_follow_from_the_steps():
    hours = 1024 * 128 / 3600
    assert cost.money(WORK, 8, ASSUMED) == rf"0.01 \| 1.00 \| {hours / 24:.1f} \| {hours * 8 * 2 / 1000:.1f}"
    assert cost.milliseconds(WORK, 8, ASSUMED) == r"128,000 \| 70 \| 0"


def test_a_batch_that_gpus_cannot_share_has_no_figures():
    few = Work(**{**vars(WORK), "batch": 24})
    assert cost.row("p", few, ASSUMED, cost.milliseconds) == r"| p | 3,000 \| 70 \| 0 | - | - |"


@pytest.mark.slow
def test_counted_operations_are_those_of_table_5s_networks():
    """A guided student's step: forward, tangent, backward, and the teacher twice; 3 forwards are a teacher's step."""
    params = preset_params("imagenet512-s")
    teacher, student = (cost.work_of(params, "imagenet512-s", training) for training in ("teacher", "scd"))
    assert teacher.parameters == pytest.approx(280_212_802, rel=1e-3)
    assert teacher.backward == pytest.approx(2 * teacher.forward, rel=0.01)
    assert student.forward == pytest.approx(4 * teacher.forward, rel=0.01)
    assert student.backward == pytest.approx(teacher.backward, rel=0.01)
