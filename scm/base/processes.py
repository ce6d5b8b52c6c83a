"""Short commands of other programs, such as git and dvc, and how a long one is asked to end."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

FOREIGN = ("DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that DVC sets for its stages and git for its hooks; they would lead dvc and git to another project."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask for an end; Slurm announces the end of a job's time by SIGUSR1, if it is told to."""


def own_environment() -> dict[str, str]:
    """This process's environment without what would lead dvc and git to another project."""
    return {key: value for key, value in os.environ.items() if key not in FOREIGN}


def run_program(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and returns its exit code and output; the terminal's Ctrl-C does not reach it.

    Args:
        env: the complete environment; None = this process's own.
        input: text for standard input; None = empty.

    Raises:
        FileNotFoundError: the program does not exist.
    """
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "start_new_session": True}
    return subprocess.run(command, cwd=cwd, env=env, input=input or "", **options)


def on_stop(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Handles STOPS, but SIGHUP stays ignored under nohup; returns the handlers that they had."""
    numbers = [number for number in STOPS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def end_with_parent() -> None:
    """Has the kernel ask this process, or what it becomes by exec, to end when its parent dies. Linux only."""
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a failed command's stderr, which is usually the reason; its exit code if stderr is empty."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def signal_group(group: int, number: int) -> bool:
    """Sends a signal to a whole process group; returns False if no process is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
