"""Shares of a training's state: each process keeps the optimiser's moments and the averages of some parameters alone.

Whole parameters are shared out. Every process has all weights and all gradients, steps its own parameters, and
receives the others' new weights from their owners. So the weights have the same bits as without shares.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from scm.base.distributed import Ranks
from scm.training.gradients import BUCKET


def owners(sizes: Sequence[int], world: int) -> list[int]:
    """The process that owns each parameter: the largest go first, each to the process with the least so far.

    >>> owners([1, 5, 2, 4, 1], world=2)
    [0, 0, 1, 1, 0]
    """
    total, owner = [0] * world, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owner[index] = total.index(min(total))
        total[owner[index]] += sizes[index]
    return owner


def numbers_kept(trained: nn.Module, model: nn.Module, averages: int) -> dict[Tensor, int]:
    """The numbers kept for each parameter of `trained`: the optimiser's two, and the averages if it is the model's."""
    kept: dict[Tensor, int] = {parameter: 2 * parameter.numel() for parameter in trained.parameters()}
    for parameter in model.parameters():
        kept[parameter] += averages * parameter.numel()
    return kept


class Shares:
    """This process's share of the parameters.

    Args:
        sizes: all parameters, with the numbers that are kept for each.
        divided: False = every process keeps the state of all parameters.

    Attributes:
        indices: places of this process's parameters among all.
    """

    def __init__(self, sizes: Mapping[Tensor, int], ranks: Ranks, divided: bool) -> None:
        self.ranks, self._divided = ranks, divided and ranks.world > 1
        owner = owners(list(sizes.values()), ranks.world) if self._divided else [ranks.rank] * len(sizes)
        self._owners = dict(zip(sizes, owner, strict=True))
        self.indices = [index for index, each in enumerate(owner) if each == ranks.rank]
        self._buckets = [(each, bucket) for each in range(ranks.world) for bucket in self._buckets_of(each)]

    def keeps(self, parameter: Tensor) -> bool:
        """True if this process steps and averages the parameter."""
        return self._owners[parameter] == self.ranks.rank

    @torch.no_grad()
    def spread(self) -> None:
        """Gives all processes the weights that their owners have stepped: those with a gradient."""
        for owner, bucket in self._buckets if self._divided else ():
            stepped = [parameter.detach() for parameter in bucket if parameter.grad is not None]
            if len(stepped) == 1 and stepped[0].is_contiguous():
                dist.broadcast(stepped[0], owner)
            elif stepped:
                values = torch.cat([parameter.flatten() for parameter in stepped])
                dist.broadcast(values, owner)
                for parameter, new in zip(stepped, values.split([p.numel() for p in stepped]), strict=True):
                    parameter.copy_(new.reshape(parameter.shape))

    def whole(self, kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Adds the other processes' tensors to rank 0's, on the CPU; every process calls this with its own."""
        if not self._divided:
            return kept
        first = self.ranks.rank == 0
        others = self.ranks.each({} if first else kept)
        return {**kept, **{name: value.cpu() for name, value in others if first}}

    def _buckets_of(self, owner: int) -> list[list[Tensor]]:
        """A process's parameters: each large one by itself, the smaller ones in groups."""
        buckets, small = [], []
        for parameter in (each for each, its in self._owners.items() if its == owner):
            if parameter.numel() >= BUCKET:
                buckets.append([parameter])
                continue
            small.append(parameter)
            if sum(each.numel() for each in small) >= BUCKET:
                buckets.append(small)
                small = []
        return [*buckets, small]
