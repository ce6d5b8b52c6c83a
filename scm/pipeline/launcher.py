"""`runtime.launcher`: the command by which a stage of DVC's runs on other machines, or on many.

The stage that DVC has started waits for the command, so DVC records what the machines have done. The command gets a
session of its own and the first signal alone: a second one would end torchrun before its processes have saved.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from scm.base.processes import STOPS, end_with_parent, on_stop, signal_group
from scm.errors import EXIT_INTERRUPTED, UserError
from scm.pipeline.ranks import numbering

SHARED_DISK_SECONDS = 60.0
"""How long a file that another machine has written may take to be seen here; NFS needs up to 30 s."""
FOR_TORCHRUN = {
    "PET_SIGNALS_TO_HANDLE": ",".join(number.name for number in (*STOPS, signal.SIGQUIT)),
    "PET_SHUTDOWN_TIMEOUT": "3600",
}
"""torchrun's options: pass these signals on, and wait for the checkpoint, of which there may be tens of GB."""


def command_of(launcher: str, root: Path) -> list[str]:
    """The words of `runtime.launcher`, of which the first is the path of a program.

    Raises:
        UserError: this machine has no such program.
    """
    first, *rest = shlex.split(launcher)
    program = shutil.which(str(root.absolute() / first) if "/" in first else first)
    if program is None:
        raise UserError(f"runtime.launcher = {launcher}: there is no program {first} here; install it, or write null")
    return [program, *rest]


def environment_for(defaults: Mapping[str, str], **added: str) -> dict[str, str]:
    """This process's environment for processes that will be numbered anew, with defaults and further variables."""
    own = {name: value for name, value in os.environ.items() if name not in numbering(os.environ)}
    return {**defaults, **FOR_TORCHRUN, **own, **added}


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs the command to its end and returns its exit code, or 75 if it was interrupted before it was complete.

    Raises:
        UserError: a signal that this process has not passed on has ended the command.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None and len(received) == 1:
            signal_group(process.pid, number)

    previous = on_stop(stop)
    try:
        process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=end_with_parent)
        if received:
            signal_group(process.pid, received[0])
        code = process.wait()
        while received and signal_group(process.pid, 0):  # a shell dies before the programs that it has started
            time.sleep(0.05)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received and code:
        return EXIT_INTERRUPTED
    if code < 0:
        raise UserError(
            f"{Path(command[0]).name} was ended by {signal.Signals(-code).name}: run the same command again"
        )
    return code


def check_seen(path: Path) -> None:
    """Raises UserError if the stage's last file does not appear here, although its launcher has ended well."""
    deadline = time.monotonic() + SHARED_DISK_SECONDS
    while not path.is_file():
        if time.monotonic() >= deadline:
            problem = f"runtime.launcher ended with code 0, but {path} is not here"
            raise UserError(
                f"{problem}: it has to wait for the stage, which has to run in this folder, on a shared disk"
            )
        time.sleep(0.5)
