"""Two network namespaces as hosts: a training over both survives the loss of one, and a signal to one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scm.base.distributed import Ranks
from scm.base.processes import on_stop
from scm.errors import EXIT_INTERRUPTED, Interrupted
from scm.training.checkpoint import FILE
from tests.support.hosts import ADDRESSES, lose, two_hosts
from tests.support.loops import equal, result, trainer

ROOT = Path(__file__).parents[2]
LONG = {"images": 16 * 160, "checkpoint_every": 320}


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    with two_hosts() as names:
        yield names


def start(hosts: list[str], work: Path, number: int) -> list[subprocess.Popen[bytes]]:
    """Starts torchrun on both hosts for the `number`-th time."""
    place = f"--rdzv-endpoint={ADDRESSES[0]}:{29600 + number}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
    processes = []
    for index, (host, address) in enumerate(zip(hosts, ADDRESSES, strict=True)):
        options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", place, f"--local-addr={address}"]
        torchrun = [sys.executable, "-m", "scm.pipeline.torchrun", *options, f"--rdzv-conf=is_host={1 - index}"]
        command = ["ip", "netns", "exec", host, *torchrun, __file__, str(work)]
        processes.append(subprocess.Popen(command, env=environment))
    return processes


def wait_for_checkpoint(work: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    begun, deadline = time.time(), time.monotonic() + 60
    while not any(file.stat().st_mtime > begun for file in work.glob(FILE)):
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.long
def test_a_training_over_two_hosts_survives_the_loss_of_one(tmp_path, hosts):
    work = tmp_path / "hosts"
    work.mkdir()
    processes = start(hosts, work, 0)
    wait_for_checkpoint(work, processes)
    processes[1].terminate()  # ip has become torchrun by exec
    assert [process.wait(60) for process in processes] == [EXIT_INTERRUPTED] * 2
    processes = start(hosts, work, 1)
    wait_for_checkpoint(work, processes)
    lose(hosts[1])
    assert [process.wait(180) for process in processes] == [1, -signal.SIGKILL]
    assert [process.wait(180) for process in start(hosts, work, 2)] == [0, 0]
    command = [sys.executable, "-m", "scm.pipeline.torchrun", "--standalone", "--nproc-per-node=2", __file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "one")], env=environment, check=True)
    assert equal(result(work), result(tmp_path / "one"))


def train(work: Path) -> int:
    stopped: list[int] = []
    on_stop(lambda number, _: stopped.append(number))
    ranks = Ranks.join("cpu")
    try:
        trainer(work, ranks=ranks, stopping=lambda: bool(stopped), **LONG).run()
    except Interrupted:
        return EXIT_INTERRUPTED
    ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(train(Path(sys.argv[1])))
