"""An update of the weights by a gradient that may not be finite."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from scm.networks.magnitude import normalize_weights


@torch.no_grad()
def update(
    module: nn.Module, optimizer: torch.optim.Optimizer, finite: Tensor, spread: Callable[[], None] = lambda: None
) -> None:
    """Does a step of the optimiser and normalises the module's weights if `finite` is true, else changes nothing.

    On a GPU the GPU decides, so that the host does not wait for it.

    Args:
        spread: gives this process the weights that other processes step, and them its own.
    """
    if finite.device.type == "cpu":
        if finite:
            optimizer.step()
            spread()
            normalize_weights(module)
        return
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~finite).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue], as torch.amp's
        optimizer.step()
    else:
        _step_or_undo(optimizer, finite)
    spread()
    normalize_weights(module, finite)


def _step_or_undo(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Does a step and restores weights and state if it is not `finite`; a state that the step has made becomes 0."""
    before = {id(tensor): tensor.clone() for tensor in _changing(optimizer)}
    optimizer.step()
    for tensor in _changing(optimizer):
        tensor.copy_(torch.where(finite, tensor, before.get(id(tensor), 0.0)))


def _changing(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter
                yield from optimizer.state[parameter].values()
