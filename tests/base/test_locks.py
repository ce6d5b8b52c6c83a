"""Locks between processes: refused, waited for, and freed by any end of their holder."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scm.base import locks

HOLDER = """
import sys, time
from pathlib import Path
from scm.base import locks
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "folder/lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_taken_lock_is_refused_or_waited_for_until_its_holder_is_killed(tmp_path, holder):
    path, told = tmp_path / "folder/lock", []
    with pytest.raises(locks.Taken) as caught, locks.held(path, wait=False):
        pytest.fail("two have the lock")
    assert caught.value.holder == str(holder.pid)

    def waiting(process: str) -> None:
        told.append(process)
        holder.send_signal(signal.SIGKILL)

    with locks.held(path, waiting=waiting):
        assert told == [str(holder.pid)]
    with locks.held(path, wait=False, waiting=lambda _: pytest.fail("nobody holds it")):
        pass
