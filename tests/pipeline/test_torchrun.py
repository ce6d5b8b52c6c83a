"""torchrun with the stages' exit codes and without its own stack."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import run
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from scm.pipeline import torchrun

WORKER = """
import os, signal, sys, time
def stop(number, frame):
    time.sleep(0.5)
    os.write(1, f"saved by {signal.Signals(number).name}\\n".encode())
    sys.exit(75)
[signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)]
os.write(1, b"ready\\n")  # in one piece, as both processes write to one pipe
if len(sys.argv) > 1 and os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == "killed" else sys.exit(f"error: {sys.argv[1]}")
time.sleep(60)
"""


def failure(code: int) -> SimpleNamespace:
    return SimpleNamespace(exitcode=code, pid=7, signal_name=lambda: signal.Signals(-code).name)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((75,), 75),
        ((75, 75), 75),
        ((75, -15), 75),
        ((-15,), 75),
        ((-10, 75), 75),
        ((1, -15), 1),
        ((75, 1), 1),
        ((2,), 1),
    ],
)
def test_the_code_of_several_processes(codes, expected, capsys):
    assert torchrun.code_of({rank: failure(code) for rank, code in enumerate(codes)}) == expected
    assert capsys.readouterr().err == ""


def test_a_process_that_was_killed_says_nothing_itself(capsys):
    assert torchrun.code_of({0: failure(1), 3: failure(-9)}) == 1
    said = "error: rank 3 (process 7 was ended by SIGKILL): look for a full memory in the machine's log\n"
    assert capsys.readouterr().err == said


def started(tmp_path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    command = [sys.executable, "-m", "scm.pipeline.torchrun", "--standalone", "--nproc-per-node=2", "worker.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], cwd=tmp_path, env=environment, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_everywhere(tmp_path, number):
    process = started(tmp_path)
    assert process.stdout and [process.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == f"saved by {number.name}\n" * 2
    assert (process.returncode, err) == (75, "interrupted: run the same command to go on\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "said"), [("because", "error: because\n"), ("killed", "was ended by SIGKILL): look")]
)
def test_a_failure_is_one_line(tmp_path, argument, said):
    process = started(tmp_path, argument)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and said in err and err.count("\n") == 1


def test_nodes_that_do_not_meet_are_one_line(monkeypatch, capsys):
    def fail(_: object) -> None:
        raise RendezvousConnectionError("no answer")

    monkeypatch.setattr(run, "run", fail)
    monkeypatch.setattr(torchrun, "on_stop", lambda _: {})
    monkeypatch.setattr(os, "environ", {})
    assert torchrun.main(["--nnodes=2", "worker.py"]) == 1
    remedy = "compare --nnodes, --rdzv-endpoint and --rdzv-id on all nodes"
    assert capsys.readouterr().err == f"error: torchrun's nodes have not met: no answer: {remedy}\n"
