"""The gradient of a batch: the sum over parts that are computed one after the other, the mean over the processes."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from scm.base.distributed import Ranks

BUCKET = 2**20
"""Elements. Smaller gradients are sent together, in a copy; each larger one is sent by itself, where it is."""


def parts_of(images: int, limit: int) -> int:
    """The smallest number of equal parts of a batch of `images` in which no part has more than `limit` images."""
    return next(parts for parts in range(1, images + 1) if images % parts == 0 and images // parts <= limit)


class GradientMean:
    """Averages gradients over the processes while the backward pass computes the next ones.

    A gradient is sent as soon as it is complete, so all processes must compute the same ones in the same order.

    Args:
        parameters: their gradients are averaged.
    """

    def __init__(self, parameters: Iterable[Tensor], ranks: Ranks) -> None:
        self._world, self._sending = ranks.world, False
        self._small: list[Tensor] = []
        self._sent: list[tuple[dist.Work, Tensor, Sequence[Tensor]]] = []
        if ranks.world > 1:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._complete)

    @property
    def begun(self) -> bool:
        """True if other processes have received a gradient of this step."""
        return bool(self._sent)

    @contextmanager
    def last_part(self) -> Generator[None]:
        """The block holds the backward pass that completes the gradients; after it they are the processes' means."""
        self._sending = True
        try:
            yield
            self._send(self._small)
        finally:
            self._sending, self._small = False, []
        for work, values, gradients in self._sent:
            work.wait()
            values /= self._world
            if values is not gradients[0]:
                for gradient, mean in zip(gradients, values.split([g.numel() for g in gradients]), strict=True):
                    gradient.copy_(mean.reshape(gradient.shape))
        self._sent = []

    def _complete(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if not self._sending or gradient is None:
            return
        if gradient.numel() >= BUCKET and gradient.is_contiguous():
            self._send([gradient])
            return
        self._small = [*self._small, gradient]
        if sum(each.numel() for each in self._small) >= BUCKET:
            self._send(self._small)
            self._small = []

    def _send(self, gradients: Sequence[Tensor]) -> None:
        if not gradients:
            return
        values = gradients[0] if len(gradients) == 1 and gradients[0].is_contiguous() else None
        if values is None:
            values = torch.cat([gradient.flatten() for gradient in gradients])
        work = dist.all_reduce(values, async_op=True)
        assert work is not None
        self._sent.append((work, values, gradients))
