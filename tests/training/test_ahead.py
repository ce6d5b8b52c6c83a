"""Batches made one ahead are the batches, each made once, beside what the caller does meanwhile."""

import threading
import time

import pytest
import torch

from scm.training.ahead import Ahead


class Slow:
    """Takes a moment for each batch and keeps the positions that it was asked for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked, self.seconds = [], seconds

    def batch_at(self, images_seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append((images_seen, threading.current_thread().name))
        time.sleep(self.seconds)
        if images_seen == 400:
            raise OSError("the disk is gone")
        return torch.full((4, 1, 2, 2), float(images_seen)), torch.tensor([images_seen] * 4)


def test_each_position_gives_its_batch_in_whatever_order_it_is_asked_for():
    data = Ahead(Slow(), 4)
    for position in (0, 4, 8, 8, 100, 104, 0):
        x_0, labels = data.batch_at(position)
        assert (x_0 == position).all() and labels.tolist() == [position] * 4


def test_in_order_each_batch_is_made_once_and_in_one_other_thread():
    slow = Slow()
    data = Ahead(slow, 4)
    for position in range(0, 40, 4):
        data.batch_at(position)
    positions, threads = zip(*slow.asked, strict=True)
    assert positions[:10] == tuple(range(0, 40, 4)) and len(set(threads)) == 1
    assert threads[0] != threading.current_thread().name


def test_the_next_batch_is_made_before_it_is_asked_for():
    slow = Slow(0.05)
    data = Ahead(slow, 4)
    data.batch_at(0)
    assert data.waited > 0.04
    deadline = time.monotonic() + 30
    while len(slow.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [position for position, _ in slow.asked] == [0, 4]


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for():
    data = Ahead(Slow(), 4)
    data.batch_at(396)
    with pytest.raises(OSError, match="the disk is gone"):
        data.batch_at(400)
