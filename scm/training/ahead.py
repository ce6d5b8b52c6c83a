"""Prefetching: the next batch is made while a step computes."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor


class Data(Protocol):
    """Where batches come from."""

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        """This rank's x_0 [B, C, H, W] and labels [B] of the step after `images_seen` images, at any position."""
        ...


class Ahead:
    """Serves the batches of `data`, made in a background thread before they are needed.

    Args:
        batch: images between two calls. Calls at other positions are correct, but slower.
        pinned: True puts batches where a GPU reads them without waiting.

    Attributes:
        waited: total seconds that callers of `batch_at` have waited.
    """

    def __init__(self, data: Data, batch: int, *, pinned: bool = False) -> None:
        self.waited = 0.0
        self._data, self._batch, self._pinned = data, batch, pinned
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._position, self._next = -1, Future[tuple[Tensor, Tensor]]()

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        """Works as `Data.batch_at`; an exception of the thread is raised here."""
        started = time.perf_counter()
        if self._position != images_seen:
            self._ask(images_seen)
        batch = self._next.result()
        self._ask(images_seen + self._batch)
        self.waited += time.perf_counter() - started
        return batch

    def _ask(self, images_seen: int) -> None:
        self._position, self._next = images_seen, self._thread.submit(self._made, images_seen)

    def _made(self, images_seen: int) -> tuple[Tensor, Tensor]:
        x_0, labels = self._data.batch_at(images_seen)
        return (x_0.pin_memory(), labels.pin_memory()) if self._pinned else (x_0, labels)
