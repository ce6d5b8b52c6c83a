"""The arithmetic of benchmarks/scaling.py, and one round of it."""

import os

import pytest
import torch
from torch import distributed as dist

from benchmarks import scaling
from benchmarks.scaling import Round, Turn, messages, share_within
from scm.base.distributed import Ranks
from scm.training.gradients import GradientMean


def test_an_efficiency_of_1_is_no_cost_and_half_of_it_is_twice_the_time():
    free = Round(small=Turn(1, 1), large=Turn(2, 2), apart=Turn(1, 2), two=Turn(1, 2))
    assert set(free.efficiencies().values()) == {1.0}
    slow = free._replace(two=Turn(2, 4))
    assert set(slow.efficiencies().values()) == {0.5}
    crowded = free._replace(apart=Turn(1.25, 2.5), two=Turn(1.25, 2.5))  # two cores that share a memory
    assert crowded.efficiencies() == {"strong": 0.8, "weak": 0.8, "exchange": 1.0, "CPU": 1.0}


def test_the_share_within_is_of_the_spans_time():
    assert share_within([(0, 2), (9, 13)], [(1, 3), (5, 10)]) == pytest.approx(2 / 6)
    assert share_within([(2, 3)], [(0, 1), (4, 5)]) == 1
    assert share_within([(6, 7)], [(0, 5)]) == 0


def test_messages_are_as_large_as_the_gradients(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        layer = torch.nn.Linear(2048, 1024)  # one large gradient and a small one
        mean = GradientMean(layer.parameters(), Ranks(0, 2, torch.device("cpu")))
        with messages() as sizes, mean.last_part():
            layer(torch.ones(2, 2048)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert sorted(sizes) == [4 * 1024, 4 * 2048 * 1024]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processes need two cores")
def test_a_round_counts_bytes_and_overlap():
    name = "digits, 8x8, width 32"
    cells = scaling.measure(name, "sct", 1, 1, sorted(os.sched_getaffinity(0)))
    parameters = sum(p.numel() for p in scaling.trainer(name, "sct", scaling.Place(0, 0, 1, 4), None).parameters)
    assert cells[-2] == f"{4 * parameters + 4:,}"  # and the wish to stop
    assert cells[-1].endswith("%")
