"""Several processes in one gloo group, for tests of what they do together."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from scm.base.distributed import Ranks


PRELOADED = ["torch._dynamo", "scm.training.loop", "tests.support.loops"]
"""What most of the processes import; an optimiser imports torch's compiler."""


def together(world: int, work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(ranks, *arguments)` in `world` processes; an exception in one of them is raised here.

    They are forked from a process that has imported torch, once for all tests of a test process.
    They get this process's sys.path, to which MLflow adds the code of each model that it loads: a part of scm alone.
    """
    path = [str(Path(__file__).parents[2]), *sys.path]
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder, patch.object(sys, "path", path):
        mp.start_processes(_joined, (world, folder, work, arguments), nprocs=world, start_method="forkserver")


def _joined(rank: int, world: int, folder: str, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    work(Ranks(rank, world, torch.device("cpu")), *arguments)
    dist.destroy_process_group()
