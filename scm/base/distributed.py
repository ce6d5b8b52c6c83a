"""This process among those that torchrun started; a single process has world size 1."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from scm.errors import UserError

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: rank 0 alone writes snapshots and verifies them, of which there may be
hundreds of GB; NCCL's own ten minutes would end each attempt to resume. torchrun sees at once if a process ends."""

Read = tuple[Mapping[str, Tensor], dict[str, Any]]
"""Tensors by name, and a header."""


@dataclass(frozen=True)
class Ranks:
    """This process and the group that it belongs to.

    Attributes:
        rank: number of this process; rank 0 writes files and prints.
        world: number of processes.
        device: device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @classmethod
    def apart(cls, device: str) -> "Ranks":
        """Reads torchrun's environment without joining a group, for processes that share work through files.

        Args:
            device: `cpu` or `cuda`; each process on a machine takes its own GPU.
        """
        places = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
        world, rank, index = (int(os.environ.get(name, default)) for name, default in places)
        place = torch.device(device, index) if device == "cuda" else torch.device(device)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        return cls(rank, world, place)

    @classmethod
    def join(cls, device: str) -> "Ranks":
        """Reads torchrun's environment as `apart` does, and joins the group of all processes."""
        ranks = cls.apart(device)
        if ranks.world > 1:
            # NCCL connects at once when it knows the GPU, so a machine that cannot be reached fails here.
            gpu = ranks.device if ranks.device.type == "cuda" else None
            with _ended_by_sigterm():
                dist.init_process_group("gloo" if gpu is None else "nccl", timeout=PATIENCE, device_id=gpu)
        return ranks

    def total(self, values: Tensor) -> Tensor:
        """Sums `values` over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def of_first(self, value: float) -> float:
        """Rank 0's value on every process, exactly, as the others add 0."""
        if self.world == 1:
            return value
        own = value if self.rank == 0 else 0.0
        return float(self.total(torch.tensor(own, dtype=torch.float64, device=self.device)))

    def any(self, flag: bool) -> bool:
        """True on every process if `flag` is true on at least one."""
        return flag if self.world == 1 else bool(self.total(torch.tensor([float(flag)], device=self.device)).item())

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        if self.world == 1:
            return value
        values = torch.tensor([value], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return int(values.item())

    def first(self, work: Callable[[], None]) -> None:
        """Does `work` in rank 0 while the others wait; if it fails, all processes end.

        Raises:
            UserError: rank 0 has failed, in the other processes; rank 0 raises what `work` did.
        """
        done = self.rank != 0
        try:
            if self.rank == 0:
                work()
                done = True
        finally:
            failed = self.any(not done)
        if failed:
            raise UserError(f"rank {self.rank} ends: rank 0 failed, as it explains")

    def each(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yields the tensors of all processes on every process, one at a time, on the process's own device.

        Every process must take all of them. Several processes' tensors need different names.
        """
        if self.world == 1:
            yield from tensors.items()
            return
        listed: list[Any] = [None] * self.world
        dist.all_gather_object(listed, [(name, value.shape, value.dtype) for name, value in tensors.items()])
        for owner, names in enumerate(listed):
            for name, shape, dtype in names:
                if owner == self.rank:
                    value = tensors[name].detach().to(self.device).contiguous()
                else:
                    value = torch.empty(shape, dtype=dtype, device=self.device)
                dist.broadcast(value, owner)
                yield name, value

    def read_once(self, read: Callable[[], Read | None]) -> tuple[Iterator[tuple[str, Tensor]], dict[str, Any]] | None:
        """Calls `read` in rank 0; every process gets the tensors, as from `each`, and the header that it returns.

        Raises:
            UserError: as from `first`.
        """
        found: list[Any] = [None]

        def keep() -> None:
            found[0] = read()

        self.first(keep)
        tensors, header = found[0] or ({}, None)
        if self.world > 1:
            told = [header]
            dist.broadcast_object_list(told, device=self.device)
            header = told[0]
        return None if header is None else (self.each(tensors), header)

    def wait(self) -> None:
        """Waits until every process has called this."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leaves the group that `join` has joined."""
        if self.world > 1:
            dist.destroy_process_group()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end this process while it waits for others, who may have failed; a handler would never be called."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
