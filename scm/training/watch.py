"""What looks at a training while it runs, such as a page about it. Nothing of it may change the training."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from scm.networks import Model


class Watch(Protocol):
    """Rank 0 has one, which calls no other process; the others have none."""

    def resumed(self, images: int, lines: Sequence[Mapping[str, Any]], health: Sequence[str]) -> None:
        """The training begins or goes on.

        Args:
            images: images seen so far.
            lines: lines of metrics.jsonl so far.
            health: what the diagnosis has found in them.
        """
        ...

    def add(self, line: Mapping[str, Any], health: Sequence[str]) -> None:
        """A line was added to metrics.jsonl.

        Args:
            health: all findings so far.
        """
        ...

    def snapshot(self, model: Model, average: Mapping[str, Tensor], header: Mapping[str, Any], images: int) -> None:
        """A snapshot was written.

        Args:
            model: keeps its own weights and mode.
            average: the shortest average, by the names of the model's parameters, on the training's device.
            header: describes the model and how it is sampled.
        """
        ...
