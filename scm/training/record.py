"""What a run keeps in its work folder beside the checkpoint, with the hashes by which a resumed run verifies it."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scm.base.files import append_line, sha256
from scm.errors import UserError

METRICS = "metrics.jsonl"
SNAPSHOTS = "snapshots"


class Record:
    """The lines of metrics.jsonl and the snapshots; only rank 0 of a run has one.

    Each file is hashed once, when it is written; the checkpoint keeps the hashes.

    Attributes:
        snapshots: SHA-256 of each snapshot, by its name.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.snapshots: dict[str, str] = {}
        self._bytes, self._lines = 0, hashlib.sha256()

    def add_line(self, line: str) -> None:
        """Appends a line to metrics.jsonl."""
        append_line(self.work / METRICS, line)
        self._count(f"{line}\n".encode())

    def add_snapshot(self, file: Path) -> None:
        """Takes note of a snapshot that has been written."""
        self.snapshots[file.name] = sha256(file)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps in its header."""
        return {"metrics": [self._bytes, self._lines.hexdigest()], "snapshots": self.snapshots}

    def restore(self, state: Mapping[str, Any] | None) -> Sequence[str]:
        """Verifies what the checkpoint stands on, deletes what is newer, and returns the lines of metrics.jsonl.

        Args:
            state: what `state` returned when the checkpoint was written; None = there is no checkpoint.

        Raises:
            UserError: something is missing or damaged.
        """
        size, digest = state["metrics"] if state else (0, hashlib.sha256().hexdigest())
        metrics = self.work / METRICS
        self.work.mkdir(parents=True, exist_ok=True)
        metrics.touch()
        with metrics.open("r+b") as file:
            content = file.read(size)
            self._count(content)
            if self.state()["metrics"] != [size, digest]:
                raise damaged(self.work, metrics)
            file.truncate(size)
        self.snapshots = dict(state["snapshots"]) if state else {}
        for file in (self.work / SNAPSHOTS).glob("*.safetensors"):
            if file.name not in self.snapshots:
                file.unlink()
        self.verify()
        return content.decode().splitlines()

    def verify(self) -> None:
        """Compares all snapshots with their hashes.

        Raises:
            UserError: a snapshot is missing or damaged.
        """
        files = [self.work / SNAPSHOTS / name for name in self.snapshots]
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda file: sha256(file) if file.is_file() else None, files))
        for file, digest in zip(files, found, strict=True):
            if digest != self.snapshots[file.name]:
                raise damaged(self.work, file)

    def _count(self, content: bytes) -> None:
        self._bytes += len(content)
        self._lines.update(content)


def damaged(work: Path, file: Path) -> UserError:
    """The error for a file of the work folder that is not as it was written. No part of the folder can be replaced."""
    how = "is damaged" if file.exists() else "is missing"
    return UserError(f"{file} {how}: delete {work} and run the same command again, which trains from the beginning")
