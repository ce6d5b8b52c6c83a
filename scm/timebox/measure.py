"""Asks a process of its own to measure this machine (`scm.timebox.worker`), and waits no longer than it may."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from scm.errors import UserError
from scm.pipeline.stage import DETERMINISTIC, MALLOC
from scm.timebox.speeds import CPU_CLOCK, Machine, Speeds

PATIENCE = 60.0
"""Seconds after the time that was granted until the process is ended."""
BUSY = 4
"""How many times as long as its CPU seconds a process may take on a machine with other work."""


class Worker:
    """The process that measures, for `seconds` at most; leaving the `with` block ends it.

    Args:
        cpu_clock: True measures seconds of CPU instead of time.
    """

    program = (sys.executable, "-m", "scm.timebox.worker")

    def __init__(self, seconds: float, cpu_clock: bool = False) -> None:
        self._seconds, self._started, self._cpu_clock = seconds, time.monotonic(), cpu_clock
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = [*self.program, *([CPU_CLOCK] if self._cpu_clock else [])]
        environment = {**DETERMINISTIC, **MALLOC, **os.environ}
        # In a session of its own, so that a terminal's Ctrl-C reaches this process alone.
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
        self._process = subprocess.Popen(command, env=environment, text=True, **options)
        patience = (self._seconds + PATIENCE) * (BUSY if self._cpu_clock else 1)
        self._timer = threading.Timer(patience, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        ready = self._answered() or {"ready": 0.0}
        self.start = ready["ready"] if self._cpu_clock else time.monotonic() - self._started
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    @property
    def left(self) -> float:
        """Seconds of the granted time that are left."""
        return self._seconds - (time.monotonic() - self._started) / (BUSY if self._cpu_clock else 1)

    def machine(self, params: Mapping[str, Any], classes: int) -> Machine:
        """Measures what does not depend on the network.

        Raises:
            UserError: it cannot be measured.
        """
        found = self._asked({"params": params, "classes": classes})
        if found is None:
            raise UserError("this machine could not be measured: the process that does it has ended")
        return Machine(**{**found, "start": self.start})

    def network(self, params: Mapping[str, Any], classes: int, seconds: float) -> Speeds | None:
        """Measures the trainings of the parameters and their sampling, about `seconds` each; None = out of time."""
        found = self._asked({"params": params, "classes": classes, "seconds": seconds})
        return None if found is None else Speeds(**found)

    def _asked(self, question: dict[str, Any]) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps(question)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        found = self._answered()
        if found is not None and "error" in found:
            raise UserError(found["error"])
        return found

    def _answered(self) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None
