"""Data that are ready when they are asked for: the next batch is made while a step computes."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor


class Data(Protocol):
    """Where batches come from."""

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        """This rank's x_0 [B, C, H, W] and labels [B] of the step after `images_seen` images, whenever it is asked."""
        ...


class Ahead:
    """The same batches as those of `data`, each made in a thread of its own before it is asked for.

    Attributes:
        waited: seconds that `batch_at` has kept its caller waiting, in all.
    """

    def __init__(self, data: Data, batch: int) -> None:
        """Wraps data that are asked for in steps of `batch` images; other positions are right too, and take longer."""
        self.waited = 0.0
        self._data, self._batch = data, batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._position, self._next = -1, Future[tuple[Tensor, Tensor]]()

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        """As `Data.batch_at`; what goes wrong in the thread is raised here."""
        started = time.perf_counter()
        if self._position != images_seen:
            self._ask(images_seen)
        batch = self._next.result()
        self._ask(images_seen + self._batch)
        self.waited += time.perf_counter() - started
        return batch

    def _ask(self, images_seen: int) -> None:
        self._position, self._next = images_seen, self._thread.submit(self._data.batch_at, images_seen)
