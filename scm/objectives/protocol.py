"""The interface between the training loop and an objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol, cast

import torch
from torch import Tensor


class Network(Protocol):
    """The model as an objective uses it: F and w_phi, as scm.networks.Model implements them.

    `guidance`, `segment` and `augment` are passed only to a network that takes them.
    """

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None,
        *,
        guidance: Tensor | None = ...,
        segment: Tensor | None = ...,
        augment: Tensor | None = ...,
    ) -> Tensor: ...

    def log_weight(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """One rank's samples of one step, or a part of them: each part of a divided batch is a rank of its own.

    Attributes:
        x_0: clean data, [B, C, H, W], standard deviation sigma_d.
        labels: int64 [B], -1 = no label.
        generator: this step's source of randomness, in the same state on every rank.
        world: number of ranks. Each draws for all ranks and keeps its own part, so the result does not depend on
            their number.
        rank: number of this rank.
    """

    x_0: Tensor
    labels: Tensor
    generator: torch.Generator
    rank: int = 0
    world: int = 1

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws for this rank's samples, [B, *shape]."""
        return self._own(torch.randn, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Draws from U[0, 1) for this rank's samples, [B, *shape]."""
        return self._own(torch.rand, *shape)

    @property
    def size(self) -> int:
        """Number of samples of all ranks."""
        return self.x_0.shape[0] * self.world

    def _own(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        count = self.x_0.shape[0]
        draws = draw(self.size, *shape, generator=self.generator, device=self.generator.device, dtype=self.x_0.dtype)
        return draws[self.rank * count : (self.rank + 1) * count].to(self.x_0.device)


@dataclass(frozen=True)
class Losses:
    """The result of an objective, sample by sample.

    Attributes:
        value: loss [B]; training minimises its mean over the global batch.
        t: time of each sample, radians [B].
        figures: health figures by name, each [B], without graph; the loop averages them in bins of t.
        parts: terms of `value` that have their own times and figures, by name.
        recorded: True if `value` is a health figure of this step, False if only its parts are.
        left_out: bool [B], True for a sample that this loss leaves out, as its tangent overflowed; None = none can be.
    """

    value: Tensor
    t: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    parts: Mapping[str, "Losses"] = field(default_factory=dict[str, "Losses"])
    recorded: bool = True
    left_out: Tensor | None = None

    def detached(self) -> "Losses":
        """Drops the graph, which would keep a step's activations, and keeps the numbers."""
        parts = {name: part.detached() for name, part in self.parts.items()}
        return replace(self, value=self.value.detach(), parts=parts)


class Objective(Protocol):
    """An objective; `images_seen`, the number of images before this step, determines warm-ups."""

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses: ...


def length_of_each(x: Tensor) -> Tensor:
    """Euclidean norm of each sample over all its elements. [B, ...] -> [B]."""
    norm = torch.linalg.vector_norm  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType], torch has no type
    return cast(Tensor, norm(x.flatten(1), dim=1))


def norm_of_each(x: Tensor) -> Tensor:
    """Root mean square of each sample's elements, without graph. [B, ...] -> [B]."""
    return x.detach().flatten(1).square().mean(dim=1).sqrt()


@cache
def on_device(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor, which is copied to the device once and not in each step."""
    return torch.tensor(numbers, dtype=dtype, device=device)
