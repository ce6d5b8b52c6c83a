"""Checkpoints: one file with everything that the next step depends on, written by rename and with its own hash."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scm.base import weights
from scm.ema.tracker import Averages
from scm.errors import UserError
from scm.training.record import damaged
from scm.training.shares import Shares

FILE = "checkpoint.safetensors"


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Averages,
    header: Mapping[str, Any],
    shares: Shares,
) -> None:
    """Writes the model, the optimiser's state, the averages, and the header with the counters.

    Rank 0 gathers what the processes have shared out, and holds all of it in memory. So the file depends neither on
    the number of processes nor on their shares. Every process must call this.
    """
    kept: dict[str, Tensor] = {f"ema.{key}": value for key, value in averages.state().items()}
    for place, state in optimizer.state_dict()["state"].items():
        index = shares.indices[place]
        kept |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()} | dict(shares.whole(kept))
    shares.ranks.first(lambda: weights.save_sealed(folder / FILE, tensors, header))


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages, shares: Shares
) -> dict[str, Any] | None:
    """Restores the state that rank 0 finds in the folder; returns the header, or None if there is no checkpoint.

    Rank 0 holds the file in memory; the other processes receive one tensor after the other and need no file.

    Raises:
        UserError: the checkpoint is damaged, or another machine has one and the first has none.
    """
    ranks, there = shares.ranks, (folder / FILE).exists()
    if ranks.any(there) and not ranks.of_first(there):
        problem = "is not on the first machine, but on another one"
        raise UserError(f"{folder / FILE} {problem}: move it there, or set SCM_WORK to a folder that all machines see")
    read = ranks.read_once(lambda: _read(folder))
    if read is None:
        return None
    tensors, header = read
    places = {f"model.{key}": value for key, value in model.state_dict().items()}
    places |= {f"ema.{key}": value for key, value in averages.state().items()}
    states: dict[int, dict[str, Tensor]] = {}
    own = {index: place for place, index in enumerate(shares.indices)}
    with torch.no_grad():
        for name, value in tensors:
            part, _, key = name.partition(".")
            if part == "optimizer":
                index, _, kind = key.partition(".")
                if int(index) in own:
                    # The optimiser moves all but the step to the device of its parameter.
                    values = states.setdefault(own[int(index)], {})
                    values[kind] = value.cpu() if kind == "step" else value
            elif part == "model" or name in places:  # the other averages are other processes'
                places.pop(name).copy_(value)
    if places:
        raise damaged(folder, folder / FILE)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return header


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not (folder / FILE).exists():
        return None
    read = weights.load_sealed(folder / FILE)
    if read is None:
        raise damaged(folder, folder / FILE)
    return read
