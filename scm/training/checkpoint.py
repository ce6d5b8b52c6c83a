"""Checkpoints: one file with everything that the next step depends on, written by rename and with its own hash."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scm.base import weights
from scm.ema.tracker import Averages
from scm.training.record import damaged

FILE = "checkpoint.safetensors"


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages, header: Any) -> None:
    """Writes the model, the optimiser's state, the averages, and the header with the counters."""
    tensors: dict[str, Tensor] = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in averages.state().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    weights.save_sealed(folder / FILE, tensors, header)


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages
) -> dict[str, Any] | None:
    """Restores the saved state; returns the header, or None if the folder has no checkpoint.

    Raises:
        UserError: the checkpoint is damaged.
    """
    if not (folder / FILE).exists():
        return None
    read = weights.load_sealed(folder / FILE)
    if read is None:
        raise damaged(folder, folder / FILE)
    tensors, header = read

    def part(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    model.load_state_dict(part("model."))
    averages.restore(part("ema."))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".")
        states.setdefault(int(index), {})[name] = value
    # The optimiser moves all but the step to the device of its parameter.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return header
