"""Files and folders that are either complete or absent: they get their names after they are written.

Until then they are in temporary folders beside their places, called .NAME.scm-HOST-TOKEN.tmp and locked by the process
that writes them. The kernel releases the lock of a killed process, and the next write beside it removes what it left.
A file has such a folder of its own too: a library may write it as another file that takes its name, without a lock.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from scm.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write that finds no room on the disk, in the user's quota, or in the file."""
_RIGHTS, _MOUNT = "give this user the right to read and write there", "check the disk or the mount"
_UNUSABLE = {
    errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS, errno.EROFS: "mount it writable",
    errno.EIO: _MOUNT, errno.ESTALE: _MOUNT, errno.ENOTCONN: _MOUNT,
}  # fmt: skip
"""Error numbers of a disk that refuses or fails, with the remedies."""
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Error numbers of a path that is missing, a folder, or a link to itself."""
DAY = 86_400.0
"""Seconds without a change after which a temporary counts as left where its lock is not seen: of another machine, or
on a file system without locks."""
PATIENCE = 60.0
"""Seconds that a damaged file of another process may stay: the process removes it soon after its start, if at all."""
SEAL = "seal"
"""Key of the hash in sealed JSON."""
_TEMPORARY = re.compile(r"\.(.+)\.scm-(.*)-[0-9a-f]{8}\.tmp")
_HOST = re.sub(r"\W", "-", socket.gethostname())[:20]
Content = TypeVar("Content")


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yields a temporary name beside `path`; the file written there replaces `path` when the block succeeds.

    The data reach the disk before the name does, so a power cut leaves either the old file or the new one.

    Args:
        size: bytes that the block writes, if known; the error of a full disk names them.

    Raises:
        UserError: the disk is full.
    """
    with room_for(path, size), _temporary(path) as folder:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder, which replaces the folder `path` when the block succeeds.

    Raises:
        UserError: the disk is full.
    """
    with room_for(path), _temporary(path) as temporary:
        yield temporary
        while not _took_the_place(temporary, path):
            pass


def _took_the_place(temporary: Path, path: Path) -> bool:
    """Renames a folder to `path`, over an older one; False if another process has put one there meanwhile."""
    # The old folder loses its name before its files: a killed process must not leave half of it there.
    old = _temporary_name(path)
    with suppress(FileNotFoundError):
        path.rename(old)
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        with suppress(OSError):
            old.rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
    return True


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yields a new and locked folder beside `path`; removes it at the end if it still has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with ExitStack() as stack:
        temporary = None
        while temporary is None:
            temporary = _locked(_temporary_name(path), stack)
        stack.callback(remove, temporary)
        yield temporary


def _locked(temporary: Path, stack: ExitStack) -> Path | None:
    """Makes a folder that is locked until the stack ends; None if another process has removed it before that.

    Another process may take it for a leftover in the moment before it is locked.
    """
    import fcntl  # Windows has none, and reads packaged models

    temporary.mkdir()
    try:
        lock = stack.enter_context(_opened(temporary))
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks: its leftovers are removed after a day
        fcntl.flock(lock, fcntl.LOCK_EX)
    return temporary if temporary.exists() else None


def remove_leftovers(folder: Path) -> None:
    """Removes the temporaries that killed processes have left in a folder; those of living processes are locked."""
    import fcntl

    for name in os.listdir(folder):  # noqa: PTH208 (names of a large folder take a tenth of a Path's memory)
        found, path = _TEMPORARY.fullmatch(name), folder / name
        if found is None:
            continue
        with suppress(OSError):  # it is locked, or another process has removed it
            old = time.time() - path.stat().st_mtime > DAY
            if found[2] == _HOST or old:
                with _opened(path) as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError as error:
                        if error.errno == errno.EWOULDBLOCK or not old:
                            raise
                    remove(path)


def awaited(
    path: Path,
    read: Callable[[Path], Content | None],
    every: float = 0.5,
    patience: float = PATIENCE,
    waiting: Callable[[], object] = lambda: None,
) -> Content:
    """Waits until another process has written a file or a folder whole, and returns what `read` gets from it.

    Args:
        path: gets its name when it is whole. A process that makes it anew removes a damaged one first.
        read: returns None while the path is missing or damaged.
        waiting: called before each pause of `every` seconds; it may raise.

    Raises:
        UserError: the path was damaged when its process had made it; it is removed, so that the next run makes it anew.
    """
    before, since = None, 0.0
    while (found := read(path)) is None:
        now = _state(path)
        if now != before:
            before, since = now, time.monotonic()
        elif now is not None and time.monotonic() - since >= patience:
            remove(path)
            raise UserError(f"{path} was damaged while the processes ran, and is removed: run the same command again")
        waiting()
        time.sleep(every)
    return found


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when another file or folder gets this name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.scm-{_HOST}-{secrets.token_hex(4)}.tmp")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Opens a file or a folder for its lock."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        yield handle
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def room_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Replaces the error of a full disk with a UserError that names `path` and the room that it needs.

    Args:
        size: bytes that are written, if known. What was written in vain is removed before this block ends.
    """
    try:
        yield
    except OSError as error:
        if (number := _number(error)) not in DISK_FULL:
            _name(error, path)
            raise
        needed = _needed(path.parent, size) if number == errno.ENOSPC else ""
        remedy = f"free some space{needed} and run the same command again"
        raise UserError(f"{_final(path)} cannot be written ({os.strerror(number)}): {remedy}") from None


def _name(error: OSError, path: Path) -> None:
    """Says for `disk_fault` which file a failing disk concerns: an error while reading or writing names none."""
    if error.errno in _UNUSABLE and error.filename is None:
        error.filename = str(path)


def disk_fault(error: OSError) -> str | None:
    """The line for an error of the disk or of its permissions; None for other errors, which may be bugs."""
    number = _number(error)
    what = _final(Path(os.fsdecode(error.filename))) if isinstance(error.filename, str | bytes) else "a file"
    if number in DISK_FULL:
        return f"{what} cannot be written ({os.strerror(number)}): free some space and run the same command again"
    if number in _UNUSABLE and error.filename:
        return f"{what} cannot be used ({os.strerror(number)}): {_UNUSABLE[number]} and run the same command again"
    return None


def _number(error: OSError) -> int:
    """The number of an error; shutil.copytree has those of its files in a text."""
    found = re.search(r"\[Errno (\d+)\]", str(error)) if isinstance(error, shutil.Error) else None
    return int(found[1]) if found else error.errno or 0


def _needed(folder: Path, size: int | None) -> str:
    """The room that a file needs, beside the room that there is."""
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    if size is None or size <= free:
        return f" (more than the {free:,} bytes that are free)"
    return f" ({size:,} bytes are needed, {free:,} are free)"


def _final(path: Path) -> Path:
    """The path under the names that temporary folders in it will get."""
    found = _TEMPORARY.fullmatch(path.parent.name)
    whole = path.parent if found and found[1] == path.name else path  # a file of `replacing`
    return Path(*(_TEMPORARY.sub(r"\1", part) for part in whole.parts))


def append_line(path: Path, line: str) -> None:
    """Appends a line that reaches the disk before this returns: all of it or, if the disk is full, nothing."""
    with room_for(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            _write_all(file, f"{line}\n".encode())
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Writes unbuffered; a disk that fills up takes a part first."""
    while content:
        content = content[file.write(content) :]


@contextmanager
def room_in(path: Path, remedy: str) -> Iterator[None]:
    """Replaces the error of a full disk under `path` with a UserError that ends with `remedy`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}): {remedy}") from None


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-links a file that will not change; copies it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` with sorted keys; refuses NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a column for each key of the rows; a row's missing values stay empty."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        _name(error, path)
        raise


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON with a hash of itself, which `read_sealed` compares."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Reads what `write_sealed` wrote; None if it is missing or not what was written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        if error.errno not in NO_FILE:
            _name(error, path)
            raise
        return None
    return unsealed(value)


def unsealed(value: Any) -> dict[str, Any] | None:
    """The content of sealed JSON; None if it is not what was written."""
    if not isinstance(value, dict):
        return None
    content = {key: each for key, each in value.items() if key != SEAL}
    return content if value.get(SEAL) == _seal(content) else None


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
