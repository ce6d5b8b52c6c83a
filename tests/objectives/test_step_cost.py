"""The price of a consistency step, counted for networks of the paper: benchmarks/step_cost.py."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_cost import (
    WAYS,
    Steps,
    count,
    preset_settings,
    small_networks,
    tangent_by,
)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["cifar10", "imagenet64-s", "imagenet512-xxl"])
def test_each_linear_operations_tangent_costs_one_application(preset):
    """A diffusion step is 1 forward + 2 backward; a tangent and a teacher add one forward each: 4/3 and 5/3.

    Of each family the smallest network, and the largest of all; the benchmark counts them all.
    """
    steps = Steps(preset_settings(preset), 2, "meta", dropout=0.1)
    diffusion, sct, scd = (count(steps, name) for name in ("diffusion", "sct", "scd"))
    assert 4 / 3 - 0.01 < sct.flops / diffusion.flops < 1.34
    assert 5 / 3 - 0.01 < scd.flops / diffusion.flops < 1.68
    assert 1 < sct.bytes / diffusion.bytes < 1.1 and scd.bytes / diffusion.bytes < 1.1


def test_operations_are_those_that_torch_counts():
    steps = Steps(small_networks()["ddpmpp, width 32"], 2, "meta", dropout=0.1)
    with FlopCounterMode(display=False) as counter:
        steps.run("scd")
    assert count(steps, "scd").flops == counter.get_total_flops()


def test_the_usual_ways_cost_what_they_are_said_to():
    steps = Steps(small_networks()["edm2, width 64"], 2, "meta", dropout=0.1)
    diffusion = count(steps, "diffusion")
    assert count(steps, "sct", "split").flops / diffusion.flops == pytest.approx(2, abs=0.02)
    assert count(steps, "scd", "split").flops / diffusion.flops == pytest.approx(7 / 3, abs=0.02)
    assert count(steps, "sct", "jvp").bytes > 2 * diffusion.bytes


def test_the_three_ways_give_the_same_loss_and_gradients():
    """Otherwise their prices would not compare."""
    steps = Steps(small_networks()["ddpmpp, width 32"], 2, "cpu", dropout=0.1)
    found = {}
    for way in WAYS:
        torch.manual_seed(0)
        with tangent_by(way):
            steps.run("scd")
        found[way] = torch.cat([p.grad.flatten() for p in steps.model.parameters() if p.grad is not None])
    for way in ("split", "jvp"):
        assert torch.allclose(found[way], found["ours"], atol=1e-5 * float(found["ours"].abs().max()))
