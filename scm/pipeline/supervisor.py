"""`scm run`: a supervised `dvc repro`.

DVC does not look after its children: killed, it leaves the trainer running, and the next `dvc repro` starts a second
one. So each dvc gets a session of its own, a signal goes to everything in it, and this command returns only when the
session is empty. The first SIGINT or SIGTERM asks (a trainer then saves its state), the second one kills. Should this
command itself be killed, the kernel ends dvc, and the stages end with it.
"""

import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

from scm.base.project import TEACHER, find_root
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params import Params, load

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def run(arguments: Sequence[str], parallel: bool = False, root: Path | None = None) -> int:
    """Runs `dvc repro` with `arguments` in the project and returns the exit code: DVC's, or 75 when interrupted.

    With `parallel`, a run of the whole pipeline trains the students side by side, each on its own share of the GPUs.
    """
    root = root or find_root()
    params = load(root / "params.yaml")
    shares = _shares(params, visible_gpus()) if parallel and not arguments else []
    if parallel and len(shares) < 2:
        reason = "is for the whole pipeline" if arguments else "needs two students and a GPU for each"
        print(f"scm run: --parallel {reason}; running one stage at a time", file=sys.stderr)
    with Sessions(root) as sessions:
        if len(shares) >= 2:
            code = _students_in_parallel(sessions, _from_teacher(params), shares)
            if code:
                return sessions.outcome(code)
        return sessions.outcome(sessions.wait([sessions.start(arguments)]))


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES of the GPUs this process may use, found without torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() and name.strip() != "-1"]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))] if listing.returncode == 0 else []


def _shares(params: Params, gpus: Sequence[str]) -> list[list[str]]:
    """The GPUs in equal shares, one for each student that trains at the same time; none where the CPU is asked for."""
    if params.runtime.device == "cpu":
        return []
    count = min(len(gpus) // params.runtime.processes, len(_from_teacher(params)))
    size = params.runtime.processes
    return [list(gpus[index * size : (index + 1) * size]) for index in range(count)]


def _from_teacher(params: Params) -> list[str]:
    """Students that need no other student."""
    return [method for method, start in params.student.methods.items() if start == TEACHER]


def _students_in_parallel(sessions: "Sessions", methods: Sequence[str], shares: Sequence[Sequence[str]]) -> int:
    """The teacher, then the students in waves; DVC allows `repro -s` of two stages at once, but not plain `repro`."""
    code = sessions.wait([sessions.start(["select_ema@teacher"])])
    for wave in range(math.ceil(len(methods) / len(shares))):
        if code:
            return code
        started = methods[wave * len(shares) : (wave + 1) * len(shares)]
        processes = [
            sessions.start(["-s", f"train_student@{method}"], {"CUDA_VISIBLE_DEVICES": ",".join(share)})
            for method, share in zip(started, shares, strict=False)
        ]
        code = sessions.wait(processes)
    return code


class Sessions:
    """The dvc processes of one command, and the signals that go to them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes: list[subprocess.Popen[bytes]] = []
        self._received = 0
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        _process_control(_PR_SET_CHILD_SUBREAPER, 1)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            _send(process.pid, signal.SIGKILL)
            process.wait()
            _reap(process.pid)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        _process_control(_PR_SET_CHILD_SUBREAPER, 0)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts `dvc repro` of this Python's environment in a session of its own."""
        if self._received:
            raise Interrupted
        folder = Path(sys.executable).parent
        dvc = folder / "dvc"
        if not dvc.is_file():
            raise UserError(f"{dvc} is missing: install the project into this environment with `pip install -e .`")
        path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
        supervisor = os.getpid()
        process = subprocess.Popen(
            [str(dvc), "repro", *arguments],
            cwd=self._root,
            env={**os.environ, **(environment or {}), "PATH": path},
            start_new_session=True,
            preexec_fn=lambda: _prepare_child(supervisor),
        )
        self._processes.append(process)
        if self._received:
            _send(process.pid, signal.SIGTERM)
        return process

    def wait(self, processes: Sequence[subprocess.Popen[bytes]]) -> int:
        """Waits until the sessions are empty; the first exit code that is not 0, a signal's as a shell gives it."""
        codes = [process.wait() for process in processes]
        for process in processes:
            self._empty(process.pid)
            self._processes.remove(process)
        return next((code if code > 0 else 128 - code for code in codes if code), 0)

    def _empty(self, group: int) -> None:
        """Returns when nothing of the session is left: after an interruption when it has ended, else soon."""
        deadline = time.monotonic() + _GRACE_SECONDS
        asked = False
        while _reap(group):
            if not self._received and not asked:
                asked = _send(group, signal.SIGTERM)
            elif not self._received and time.monotonic() > deadline:
                _send(group, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)

    def outcome(self, code: int) -> int:
        """The command's exit code: an interrupted run that was not complete can go on."""
        return EXIT_INTERRUPTED if self._received and code else code

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._received += 1
        second = self._received > 1
        for process in self._processes:
            _send(process.pid, signal.SIGKILL if second else number)
        if not second:
            print("stopping; the same command goes on later (once more to kill)", file=sys.stderr)


def _send(group: int, number: int) -> bool:
    """Sends a signal to a whole process group; False when nothing is left of it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _reap(group: int) -> bool:
    """Buries what has died in the group (its orphans are ours: PR_SET_CHILD_SUBREAPER); True while something lives."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    return _send(group, 0)


def _process_control(option: int, value: int) -> None:
    """Linux's prctl; other systems go without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _prepare_child(supervisor: int) -> None:
    """Between fork and exec: default signals (a shell's background job ignores SIGINT), and no life without us."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        _process_control(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(EXIT_INTERRUPTED)
