"""Short commands of other programs, such as git and dvc."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run_program(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, out of reach of the terminal's Ctrl-C, and returns its exit code and its text.

    Args:
        env: the whole environment; None = this process's own.
        input: text for its standard input; None = it is empty.

    Raises:
        FileNotFoundError: there is no such program.
    """
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "start_new_session": True}
    return subprocess.run(command, cwd=cwd, env=env, input=input or "", **options)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed command wrote to stderr, which mostly is the reason; else its exit code."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
