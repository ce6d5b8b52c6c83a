"""Short commands of other programs, such as git and dvc."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOREIGN = ("DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that DVC sets for its stages and git for its hooks; they would lead dvc and git to another project."""


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


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a failed command's stderr, which is usually the reason; its exit code if stderr is empty."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
