"""`scm run`: a supervised `dvc repro`.

A dvc that is killed leaves its trainer running, and the next `dvc repro` starts a second one. So each dvc gets a
session of its own, signals go to everything in the session, and this command returns only when the session is empty.
The first SIGINT, SIGTERM, SIGHUP or SIGUSR1 asks to stop, upon which a trainer saves its state; the second one kills.
If this command itself is killed, the kernel ends dvc, and the stages end with it.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

from scm.base.processes import STOPS, end_with_parent, on_stop, run_program, signal_group
from scm.base.project import TEACHER
from scm.errors import EXIT_INTERRUPTED, Interrupted
from scm.params import Params
from scm.params.project import Project
from scm.pipeline import repro
from scm.pipeline.dvc_command import check_repository, check_writable, dvc_program
from scm.results.fingerprint import check_files
from scm.tracking.courier import CARRIED, Courier

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def run(
    arguments: Sequence[str], *, root: Path, parallel: bool = False, environment: Mapping[str, str] | None = None
) -> int:
    """Runs `dvc repro` in the project and returns the exit code: DVC's, or 75 if interrupted.

    Args:
        arguments: options and targets of `dvc repro`.
        parallel: in a run of the whole pipeline, train the students side by side, each on its own share of the GPUs.
        environment: what dvc and the stages get beside this process's own variables.
    """
    params = Project.open(root).params
    check_repository(root)
    check_writable(root)
    shares = _shares(params, visible_gpus()) if parallel and not arguments else []
    if parallel and len(shares) < 2:
        needed = "needs two students, a GPU for each and no runtime.launcher"
        reason = "is for the whole pipeline" if arguments else needed
        print(f"scm run: --parallel {reason}; running one stage at a time", file=sys.stderr)
    with Sessions(root, environment) as sessions:
        if len(shares) >= 2:
            code = _students_in_parallel(sessions, _from_teacher(params), shares)
            if code:
                return sessions.outcome(code)
        return sessions.outcome(sessions.wait([sessions.start(arguments)]))


def visible_gpus() -> list[str]:
    """Names, as in CUDA_VISIBLE_DEVICES, of the GPUs that this process may use; found without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() and name.strip() != "-1"]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = run_program(tool, "-L", cwd=Path.cwd())
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))] if listing.returncode == 0 else []


def _shares(params: Params, gpus: Sequence[str]) -> list[list[str]]:
    """Divides the GPUs among the students that train at the same time; no shares if params.yaml uses none of them."""
    if params.runtime.device == "cpu" or params.runtime.launcher is not None:
        return []
    size = params.runtime.processes
    count = min(len(gpus) // size, len(_from_teacher(params)))
    return [list(gpus[index * size : (index + 1) * size]) for index in range(count)]


def _from_teacher(params: Params) -> list[str]:
    """Students that start from the teacher, not from another student."""
    return [method for method, start in params.student.methods.items() if start == TEACHER]


def _students_in_parallel(sessions: "Sessions", methods: Sequence[str], shares: Sequence[Sequence[str]]) -> int:
    """Trains the teacher, then the students in waves of as many as there are shares; returns the first bad exit code.

    DVC allows `repro -s` of two stages at the same time, but not two plain `repro`.
    """
    code = sessions.wait([sessions.start(["select_ema@teacher"])])
    for first in range(0, len(methods), len(shares)):
        if code:
            return code
        started = methods[first : first + len(shares)]
        processes = [
            sessions.start(["-s", f"train_student@{method}"], {"CUDA_VISIBLE_DEVICES": ",".join(share)})
            for method, share in zip(started, shares, strict=False)
        ]
        code = sessions.wait(processes)
    return code


class Sessions:
    """Starts the dvc processes of one command, forwards signals to them, and waits until their sessions are empty."""

    def __init__(self, root: Path, environment: Mapping[str, str] | None = None) -> None:
        self._root, self._environment = root, environment or {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._courier: Courier | None = None
        self._received = 0
        self._previous: dict[int, Any] = {}
        self._others: set[int] = set()

    def __enter__(self) -> Self:
        self._others = _children()
        _process_control(_PR_SET_CHILD_SUBREAPER, 1)
        self._previous = on_stop(self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
            _reap(process.pid)
        self._end_courier()
        if self._received > 1:
            _kill_orphans(self._others)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        _process_control(_PR_SET_CHILD_SUBREAPER, 0)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts `dvc repro` in a session of its own."""
        if self._received:
            raise Interrupted
        check_files(self._root)
        dvc, supervisor = dvc_program(), os.getpid()
        path = os.pathsep.join([str(dvc.parent), os.environ.get("PATH", os.defpath)])
        own = {**os.environ, **self._environment, **(environment or {}), "PATH": path}
        if self._courier is None:
            self._courier = Courier(self._root, own)
        process = subprocess.Popen(
            [sys.executable, repro.__file__, str(dvc), "repro", *arguments],
            cwd=self._root,
            env={**own, CARRIED: "1"},
            start_new_session=True,
            preexec_fn=lambda: _prepare_child(supervisor),
        )
        self._processes.append(process)
        if self._received:
            signal_group(process.pid, signal.SIGTERM)
        return process

    def wait(self, processes: Sequence[subprocess.Popen[bytes]]) -> int:
        """Waits until the sessions are empty; returns the first exit code but 0 (for a signal, 128 + its number)."""
        codes = [process.wait() for process in processes]
        for process in processes:
            self._empty(process.pid)
            self._processes.remove(process)
        if not self._processes:
            self._end_courier()
        return next((code if code > 0 else 128 - code for code in codes if code), 0)

    def _empty(self, group: int) -> None:
        """Waits until no process of the session is left.

        After an interruption the processes take the time they need. Otherwise they are asked to end, then killed.
        """
        deadline = time.monotonic() + _GRACE_SECONDS
        asked = False
        while _reap(group):
            if not self._received and not asked:
                asked = signal_group(group, signal.SIGTERM)
            elif not self._received and time.monotonic() > deadline:
                signal_group(group, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)

    def _end_courier(self) -> None:
        """Has the runs of the sessions sent."""
        if self._courier is not None:
            self._courier.end()
            self._courier = None

    def outcome(self, code: int) -> int:
        """Returns the command's exit code: 75 if the run was interrupted before it was complete."""
        return EXIT_INTERRUPTED if self._received and code else code

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._received += 1
        second = self._received > 1
        for process in self._processes:
            signal_group(process.pid, signal.SIGKILL if second else number)
        if second and self._courier is not None:
            self._courier.kill()
        if not second:
            print("stopping; the same command goes on later (once more to kill)", file=sys.stderr)


def _reap(group: int) -> bool:
    """Reaps dead processes of the group (PR_SET_CHILD_SUBREAPER gives us its orphans); returns True while one lives."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    return signal_group(group, 0)


def _kill_orphans(others: set[int]) -> None:
    """Kills what has a session of its own, as a launcher's command has: with its parents dead, it is our child."""
    while orphans := _children() - others:
        for orphan in orphans:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)


def _children() -> set[int]:
    """Processes whose parent is this one; none on other systems than Linux."""
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()))
    except FileNotFoundError:
        return set()


def _process_control(option: int, value: int) -> None:
    """Calls prctl on Linux; does nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _prepare_child(supervisor: int) -> None:
    """Runs between fork and exec: restores the signals' defaults, and has the child die with the supervisor.

    A shell's background job ignores SIGINT, and dvc would inherit that.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    end_with_parent()
    if os.getppid() != supervisor:
        os._exit(EXIT_INTERRUPTED)
