"""A process that takes training steps for `benchmarks.peers`, with our loss or with another project's.

It reads a task, then questions, one JSON object a line, and answers each with a line; what a project prints goes to
stderr. Errors are answers as well.
"""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers_imports import import_from, reason
from benchmarks.peers_losses import CONSISTENCY_TIMES, LATE, Asked, Networks, recognised
from benchmarks.step_cost import small_networks, tangent_by
from scm.base import weights
from scm.base.live_memory import LiveMemory
from scm.base.processes import end_with_parent, own_environment
from scm.errors import UserError
from scm.networks import Model
from scm.objectives.consistency import Places
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation

ROOT = Path(__file__).parents[1]
MODULE = "benchmarks.peers_worker"


class Worker:
    """The parent's side of a process: `ask` sends a question and returns the answer.

    Raises:
        UserError: the process cannot do what it was asked, in its words.
    """

    def __init__(self, task: dict[str, Any], module: str = MODULE) -> None:
        from scm.pipeline.stage import MALLOC  # the training stages also start with these

        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**own_environment(), **MALLOC, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, "-m", module], env=environment, text=True, **pipes)
        try:
            self.start = self.ask(task)
        except UserError:
            self.close()
            raise

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{json.dumps(question)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise UserError("its process has ended") from None
        line = self._process.stdout.readline()
        found = json.loads(line) if line else {"error": "its process has ended"}
        if "error" in found:
            raise UserError(found["error"])
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Channel:
    """The process's side: questions come from stdin, answers leave by what was stdout."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def questions(self) -> Iterator[dict[str, Any]]:
        for line in sys.stdin:
            yield json.loads(line)

    def answer(self, found: dict[str, Any]) -> None:
        self._answers.write(f"{json.dumps(found)}\n")
        self._answers.flush()


def networks_of(name: str, batch: int) -> Networks:
    """Student, teacher and images of a network of step_cost.py: the same numbers in each process."""
    settings = small_networks()[name]
    torch.manual_seed(0)
    student = Model(settings)
    for value in student.network.parameters():
        if not value.any():  # an untrained network's last layer, with which F and its tangent would be 0
            torch.nn.init.normal_(value, std=0.5)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    with torch.no_grad():
        for value in student.network.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    x_0 = torch.randn(batch, settings.channels, settings.resolution, settings.resolution) * settings.sigma_d
    return Networks(Asked(student), Asked(teacher), (x_0, torch.arange(batch) % settings.classes))


def turns(channel: Channel, networks: Networks, start: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Answers questions about steps: yields the question whenever a step is to be taken, forward and backward."""
    channel.answer({key: sorted(value) if isinstance(value, set) else value for key, value in start.items()})
    for question in channel.questions():
        found: dict[str, Any] = {}
        torch.manual_seed(0)
        if question["ask"] == "seconds":
            started = time.process_time()
            for _ in range(question["steps"]):
                yield question
            found["seconds"] = (time.process_time() - started) / question["steps"]
        elif question["ask"] == "count":
            with LiveMemory() as memory:
                yield question
            with FlopCounterMode(display=False) as counter:
                yield question
            found = {"bytes": memory.peak, "operations": counter.get_total_flops()}
        else:
            own = networks.double if question.get("double") else networks
            pull = own.student.pull = torch.zeros_like(own.batch[0], requires_grad=True)
            yield question
            own.student.pull = None
            assert pull.grad is not None
            keep_pull(Path(question["file"]), own, pull.grad)
        channel.answer(found)


def keep_pull(file: Path, networks: Networks, gradient: Tensor) -> None:
    """Keeps where the loss was taken, and the unit vector along which it pulls each output: its tangent's direction."""
    pull = -gradient.double()
    pull = pull / pull.flatten(1).norm(dim=1)[:, None, None, None]
    tensors = {"pull": pull}
    if (seen := networks.teacher.seen) is not None:
        tensors |= {"x": seen.x, "t": seen.t, "output": seen.output}
    weights.save(file, {name: value.contiguous() for name, value in tensors.items()}, {})


def ours(networks: Networks, asked: Iterator[dict[str, Any]]) -> None:
    """Steps with our loss; the question names the way of the tangent, and may name places in a file and float64."""
    sigma_d, (mean, deviation) = networks.sigma_d, CONSISTENCY_TIMES
    for question in asked:
        own = networks.double if question.get("double") else networks
        loss = ConsistencyDistillation(sigma_d=sigma_d, p_mean=mean, p_std=deviation, teacher=own.teacher)
        own.student.zero_grad(set_to_none=True)
        x_0, labels = own.batch
        with tangent_by(question["way"]):
            if "places" in question:
                there = {key: value.to(x_0.dtype) for key, value in weights.load(Path(question["places"]))[0].items()}
                at = Places(there["x"] * sigma_d, there["t"], labels, {}, there["output"] * sigma_d)
                losses = loss.loss_at(own.student, at, LATE)
            else:
                losses = loss(own.student, Batch(x_0, labels, torch.Generator().manual_seed(0)), LATE)
        losses.value.mean().backward()


def main() -> None:
    end_with_parent()
    channel = Channel()
    task = json.loads(sys.stdin.readline())
    try:
        networks = networks_of(task["network"], task["batch"])
        start: dict[str, Any] = {"parameters": sum(value.numel() for value in networks.student.parameters())}
        if "code" not in task:
            ours(networks, turns(channel, networks, start))
        else:
            code = Path(task["code"])
            peer = recognised(code)
            stand_ins = import_from(code, peer.needless)
            start["stand_ins"] = stand_ins.used  # filled by the imports
            peer.run(networks, turns(channel, networks, start))
    except BaseException as error:  # SystemExit as well: scripts end by it
        channel.answer({"error": reason(error)})


if __name__ == "__main__":
    main()
