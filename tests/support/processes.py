"""Processes that are forked from one that has imported torch: several in one gloo group, or a module's program."""

import os
import runpy
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
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
    with tempfile.TemporaryDirectory() as folder, forking():
        mp.start_processes(_joined, (world, folder, work, arguments), nprocs=world, start_method="forkserver")


def forking() -> AbstractContextManager[object]:
    """What processes are to be forked in."""
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    return patch.object(sys, "path", [str(Path(__file__).parents[2]), *sys.path])


class Program:
    """`python -m MODULE ARGUMENTS` in a folder, forked: what subprocess.Popen is, with its output as one pipe."""

    def __init__(self, module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> None:
        context = mp.get_context("forkserver")
        reader, writer = context.Pipe(duplex=False)
        with forking():
            self._process = context.Process(target=_program, args=(writer, str(cwd), dict(env), module, arguments))
            self._process.start()
        writer.close()
        with reader:
            self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        self.pid, self.kill, self.terminate = self._process.pid, self._process.kill, self._process.terminate

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Returns the rest of its output, and nothing; `timeout` is for its end after that."""
        with self.stdout:
            text = self.stdout.read()
        self._process.join(timeout)
        return text, None


def _program(writer: Connection, cwd: str, env: dict[str, str], module: str, arguments: tuple[str, ...]) -> None:
    for number in (1, 2):
        os.dup2(writer.fileno(), number)
    writer.close()
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    sys.argv = [module, *arguments]
    warnings.simplefilter("ignore")
    runpy.run_module(module, run_name="__main__")


def programs_together(world: int, module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> str:
    """Has `world` processes run a module as those that torchrun starts; returns what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
    place["LOCAL_WORLD_SIZE"] = place["WORLD_SIZE"]
    ranks = [{**env, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    started = [Program(module, *arguments, cwd=cwd, env=each) for each in ranks]
    printed = [each.communicate(timeout=600)[0] for each in started]
    assert [each.returncode for each in started] == [0] * world, printed
    return "".join(printed)


def _joined(rank: int, world: int, folder: str, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    work(Ranks(rank, world, torch.device("cpu")), *arguments)
    dist.destroy_process_group()
