"""Numbers of a step that the host reads without waiting for a GPU."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Late(Generic[T]):
    """Reads each small tensor of a GPU when the next one has been sent, so that the GPU always has work to do.

    A CPU's is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._sent = deque[tuple[Tensor, torch.cuda.Event | None, T]]()

    def send(self, values: Tensor, about: T) -> None:
        """Begins to copy `values` [N] to the host.

        Args:
            about: what `arrived` returns with them.
        """
        copy, copied = values.to("cpu", non_blocking=True), None  # a GPU copies to pinned memory
        if self._late:
            copied = torch.cuda.Event()
            copied.record()
        self._sent.append((copy, copied, about))

    def arrived(self, *, newest: bool = False) -> Iterator[tuple[list[float], T]]:
        """Yields what was sent, each once and in order.

        Args:
            newest: True waits for the newest of a GPU as well.
        """
        while len(self._sent) > (self._late and not newest):
            copy, copied, about = self._sent.popleft()
            if copied is not None:
                copied.synchronize()
            yield copy.tolist(), about
