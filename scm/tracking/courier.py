"""The courier of a `scm run`: one process that sends the runs of all stages to MLflow while the stages go on.

Importing mlflow costs seconds of CPU. Under `scm run` no stage pays for it at its end: the courier looks for run files
that are new or have changed, and imports mlflow when it finds the first one, so a run in which nothing is out of date
costs one look. It ends when its standard input closes, which a killed supervisor does too, after it has sent what is
left. What it could not send, `scm sync` sends. A stage that `dvc repro` runs without `scm run` sends its run itself.
"""

import hashlib
import json
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Nothing of scm or mlflow here: the process costs next to nothing until there is a run to send.

CARRIED = "SCM_COURIER"
"""Variable that tells a stage that a courier sends its run."""
LOOK_SECONDS = 1.0
"""Between two looks at the run files."""
LONGEST_END = 60.0
"""Seconds that the courier's parent waits for its end; the courier itself waits 30 s for a store that is silent."""

Stamps = dict[str, list[int]]
"""What tells by name that a run file is another one: time of change, size, inode."""
Send = Callable[[Path], str | None]
"""Sends a run file; returns why it cannot be sent, None if it was."""


def runs_of(root: Path) -> Path:
    return root / "results" / "runs"


def stamps_of(folder: Path) -> Stamps:
    """The stamps of the run files that are there now."""
    found = Stamps()
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):  # DVC is moving it into its cache
            status = path.stat()
            found[path.name] = [status.st_mtime_ns, status.st_size, status.st_ino]
    return found


class Courier:
    """The process, seen from its parent, which starts it before the stages and ends it after them.

    Args:
        root: the folder of the stages' project.
        environment: the stages' environment, which may name the store.
    """

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        before = {"started": datetime.now(UTC).isoformat(), "seen": stamps_of(runs_of(root))}
        command: list[str] = [sys.executable, "-m", __name__, str(root)]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True, "text": True}
        self._process = subprocess.Popen(command, cwd=root, env=environment, **options)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed, as `end` tells
            self._process.stdin.write(f"{json.dumps(before)}\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """Ends it at once; `end` still has to be called."""
        self._process.kill()

    def end(self) -> None:
        """Has it send what is left, and waits for its end."""
        try:
            self._process.communicate(timeout=LONGEST_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            print("mlflow: not all runs were sent: `scm sync` sends them", file=sys.stderr, flush=True)


class Round:
    """Looks at the run files again and again.

    A file that DVC restores from its cache may come before the files that belong to it, so only runs that ended in
    this courier's time are sent at once, and all others in the last look.

    Args:
        started: when the courier's parent started it.
        seen: the run files that were there then.
    """

    def __init__(self, folder: Path, send: Send, started: datetime, seen: Stamps) -> None:
        self._folder, self._send, self._started, self._seen = folder, send, started, seen
        self._sent = dict[str, str]()

    def look(self, last: bool = False) -> dict[str, str]:
        """Sends what is new or has changed; returns the names of files that could not be sent, and why."""
        faults = dict[str, str]()
        for name, stamp in stamps_of(self._folder).items():
            if self._seen.get(name) == stamp:
                continue
            path = self._folder / name
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            digest = hashlib.sha256(content).hexdigest()
            if self._sent.get(name) != digest:
                if not last and not self._is_of_now(content):
                    continue
                if fault := self._send(path):
                    faults[name] = fault
                    continue
            self._seen[name], self._sent[name] = stamp, digest
        return faults

    def _is_of_now(self, content: bytes) -> bool:
        try:
            return datetime.fromisoformat(json.loads(content)["ended"]) >= self._started
        except (ValueError, TypeError, KeyError):
            return False  # a damaged file, which the last look reports


def sender(root: Path) -> Send:
    """Sends as a stage does at its end, with one warning line in this process's life if MLflow fails."""

    def send(path: Path) -> str | None:
        from scm.errors import UserError
        from scm.params.project import Project
        from scm.tracking.sending import publish
        from scm.tracking.sync import record_of

        try:
            settings = Project.open(root).tracking
            if settings.enabled:
                publish(record_of(root, path), settings)
        except UserError as error:
            return str(error)
        return None

    return send


def main(root: Path) -> int:
    """Sends runs until standard input closes; returns the exit code, 1 if a run file cannot be sent."""
    before = json.loads(sys.stdin.readline())
    work = Round(runs_of(root), sender(root), datetime.fromisoformat(before["started"]), before["seen"])
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
        work.look()
    faults = work.look(last=True)
    for name, fault in faults.items():
        print(f"{name} was not sent: {fault}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
