"""File locks, with which the processes of one machine wait for each other."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scm.base.files import room_for


class Taken(Exception):
    """Another process holds the lock.

    Attributes:
        holder: the other process's id, read from the lock file.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by process {holder}")
        self.holder = holder


@contextmanager
def held(path: Path, *, wait: bool = True, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the lock on `path` within the block. The end of the process, even by kill -9, releases the lock.

    Args:
        path: the lock file, created if missing and never deleted. It contains the holder's process id.
        wait: False = raise `Taken` if another process holds the lock.
        waiting: called once with the holder's process id before a wait.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode().strip()
            if not wait:
                raise Taken(path, holder) from None
            if waiting is not None:
                waiting(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        with room_for(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield
