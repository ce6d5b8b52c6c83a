"""Latent shards from elsewhere: what a folder lacks comes from a folder, a web server or an object store (fsspec).

The index says what belongs to the folder. It comes first, each shard is compared with its SHA-256 in there, and labels
and offsets, which repeat what stands in the shards, are made from those: so what is trained on depends on the index
alone, wherever the bytes came from. The index itself is checked by those who know what it should be (scm.fetching).

A shard is written beside its place under a temporary name, which is a lock as well (flock): of the processes of a
machine one fetches it, and whoever is killed leaves nothing but a file that the next one takes over.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scm.data.shards import INDEX, LABELS, OFFSETS, read_index
from scm.data.store import PAUSES, Failed, Source, Stopped, again
from scm.errors import UserError
from scm.files import replacing, room_in, sha256

THREADS = 8
"""Shards that a machine fetches at the same time."""
SAY_EVERY, SAY_SHARE = 10.0, 0.1
"""Seconds, or part of the whole, between two lines of progress."""
POLL = 0.2
"""Seconds before looking again whether another process has finished a shard."""


def fetch_index(folder: Path, address: str, say: Callable[[str], None], pauses: Sequence[float] = PAUSES) -> Any:
    """The folder's index; fetched, if it has none, after what does not belong to it was taken out of the folder.

    Args:
        folder: data/latents; made if it is not there.
        address: where a copy of it lies: a path, or a URL of any kind that fsspec knows.
        say: prints a line.
        pauses: seconds before each further attempt.

    Raises:
        UserError: it cannot be had, or is no index of latents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INDEX
    while not path.exists():
        with _claimed(path) as claim:
            if claim is None:
                time.sleep(POLL)
            elif not path.exists():
                content = _read_index(Source(address), say, pauses)
                _clear(folder, json.loads(content))
                claim.write(content)
                _settle(claim, path)
    return read_index(folder)


def _clear(folder: Path, index: dict[str, Any]) -> None:
    """Removes labels, offsets and shards that other data have left; shards that the index means stay."""
    known = {shard["file"]: shard for shard in index["shards"]}
    for path in [folder / LABELS, folder / OFFSETS, *folder.glob("*.tar")]:
        shard = known.get(path.name)
        if shard is None or not _is_there(folder, shard) or sha256(path) != shard["sha256"]:
            path.unlink(missing_ok=True)


def fetch_missing(
    folder: Path,
    address: str,
    say: Callable[[str], None],
    threads: int = THREADS,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Completes the folder: index, shards that are missing or of the wrong size, labels and offsets.

    Shards of the right size stay as they are, unread; each that is fetched is compared with the index's SHA-256.
    Processes that do this at the same time share the work. Interrupted, finished shards stay.

    Args:
        folder, address, say, pauses: as of `fetch_index`.
        threads: shards that this process fetches at the same time.

    Raises:
        UserError: something cannot be had or is not what the index says, or the disk has no room for it.
    """
    index = fetch_index(folder, address, say, pauses)
    with room_in(folder, "make room, then run the same command to go on"):
        fetched = _fetch_shards(folder, address, index, say, threads, pauses)
        _complete_arrays(folder, index, say, fetched)


def _fetch_shards(
    folder: Path,
    address: str,
    index: dict[str, Any],
    say: Callable[[str], None],
    threads: int,
    pauses: Sequence[float],
) -> bool:
    """Whether any was missing."""
    missing = [shard for shard in index["shards"] if not _is_there(folder, shard)]
    if missing:
        size = sum(shard["bytes"] for shard in missing)
        _check_room(folder, missing)
        source = Source(address)
        say(f"fetching {len(missing)} of {len(index['shards'])} shards, {_mib(size)}, from {source.address}")
        _Job(folder, source, deque(missing), _Progress(size, say), say, pauses).run(min(threads, len(missing)))
    return bool(missing)


@dataclass
class _Job:
    """Shards that a process fetches with several threads.

    Attributes:
        waiting: shards that no thread of this process is at.
        stop: set when one has failed, or the user interrupts.
    """

    folder: Path
    source: Source
    waiting: deque[dict[str, Any]]
    progress: "_Progress"
    say: Callable[[str], None]
    pauses: Sequence[float]
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, threads: int) -> None:
        with ThreadPoolExecutor(threads, "fetch") as pool:
            try:
                for done in as_completed([pool.submit(self._work) for _ in range(threads)]):
                    done.result()
            finally:
                self.stop.set()

    def _work(self) -> None:
        while not self.stop.is_set():
            try:
                shard = self.waiting.popleft()
            except IndexError:
                return
            try:
                if not self._fetched(shard):
                    self.waiting.append(shard)
                    self.stop.wait(POLL)
            except Stopped:
                return

    def _fetched(self, shard: dict[str, Any]) -> bool:
        """Sees to it that the shard is there; false if another process is at it."""
        with _claimed(self.folder / shard["file"]) as claim:
            if claim is None:
                return False
            if _is_there(self.folder, shard):
                self.progress.add(shard["bytes"])  # by another process
                return True
            place = self.source.place(shard["file"])
            again(lambda: self._copy(shard, claim), place, self.say, self.pauses, self.stop)
            _settle(claim, self.folder / shard["file"])
            return True

    def _copy(self, shard: dict[str, Any], claim: BinaryIO) -> None:
        """Fills the claimed file, and compares it with the index on the way."""
        place, digest, size = self.source.place(shard["file"]), hashlib.sha256(), 0
        claim.seek(0)
        claim.truncate()
        try:
            for chunk in self.source.chunks(shard["file"], shard["bytes"]):
                if self.stop.is_set():
                    raise Stopped
                digest.update(chunk)
                claim.write(chunk)
                size += len(chunk)
                self.progress.add(len(chunk))
                if size > shard["bytes"]:
                    break
            if size < shard["bytes"]:
                problem = f"it has {size:,} bytes instead of {shard['bytes']:,}"
                raise Failed(problem, False, self._remedy)
            if digest.hexdigest() != shard["sha256"]:
                raise UserError(f"{place} is not what the index says (its SHA-256 differs): {self._remedy}")
        except BaseException:
            self.progress.add(-size)
            raise

    @property
    def _remedy(self) -> str:
        return f"copy data/latents there again, or delete {self.folder} if its index.json is out of date"


@contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO | None]:
    """An empty temporary file beside `path` that this thread alone has; None while somebody else has it.

    Whoever has it fills it and gives it `path`'s name, or it is removed.
    """
    temporary = _temporary(path)
    with temporary.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not _is_named(stream, temporary):  # its holder was done with it between our opening and locking it
            yield None
            return
        stream.truncate(0)
        try:
            yield stream
        finally:
            if _is_named(stream, temporary):
                temporary.unlink()


def _settle(claim: BinaryIO, path: Path) -> None:
    """Gives a claimed file its name, once its content is on the disk."""
    claim.flush()
    os.fsync(claim.fileno())
    _temporary(path).replace(path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _is_named(stream: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


class _Progress:
    """Bytes so far, rate and time left on the console, from several threads."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say, self._done, self._said, self._lock = total, say, 0, 0, threading.Lock()
        self._started = self._last = time.monotonic()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            now, whole = time.monotonic(), self._done >= self._total
            if self._done - self._said < SAY_SHARE * self._total and now - self._last < SAY_EVERY and not whole:
                return
            self._last, self._said = now, self._done
            rate = max(self._done, 1) / max(now - self._started, 1e-3)
            left = int((self._total - self._done) / rate)
            figures = f"{_mib(self._done)} of {_mib(self._total)}  {_mib(rate)}/s"
            self._say(f"{self._done / self._total:4.0%}  {figures}  ETA {left // 60}:{left % 60:02d}")


def _complete_arrays(folder: Path, index: dict[str, Any], say: Callable[[str], None], fetched: bool) -> None:
    """Makes labels and offsets from the shards, where they are missing or a shard is new; others wait meanwhile."""
    paths = [folder / LABELS, folder / OFFSETS]
    while fetched or not all(path.exists() for path in paths):
        with _claimed(folder / OFFSETS) as claim:
            if claim is not None and (fetched or not all(path.exists() for path in paths)):
                say(f"making {LABELS} and {OFFSETS} from {len(index['shards'])} shards")
                parts = [_contents(folder / shard["file"], shard["count"]) for shard in index["shards"]]
                for path, arrays in zip(paths, zip(*parts, strict=True), strict=True):
                    with replacing(path) as temporary, temporary.open("wb") as stream:
                        np.save(stream, np.concatenate(arrays))
                return
        time.sleep(POLL)


def _contents(shard: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample of a shard its label and where its numbers begin: int64 [count] each, bytes from the start."""
    labels, offsets = [], []
    try:
        with tarfile.open(shard) as tar, shard.open("rb") as stream:
            for member in tar:
                stream.seek(member.offset_data)
                if member.name.endswith(".cls"):
                    labels.append(int(stream.read(member.size)))
                elif member.name.endswith(".npy"):
                    np.lib.format.read_magic(stream)
                    np.lib.format.read_array_header_1_0(stream)
                    offsets.append(stream.tell())
    except (tarfile.TarError, ValueError) as error:
        raise UserError(f"{shard} is damaged ({error}): delete it, then run the same command to go on") from None
    if not len(labels) == len(offsets) == count:
        problem = f"has {len(offsets)} samples instead of {count}"
        raise UserError(f"{shard} {problem}: delete it, then run the same command to go on")
    return np.array(labels, dtype=np.int64), np.array(offsets, dtype=np.int64)


def _read_index(source: Source, say: Callable[[str], None], pauses: Sequence[float]) -> bytes:
    """The index at the address; refused if it is none of latents, or names files elsewhere than in its folder."""
    place = source.place(INDEX)
    content = again(lambda: source.content(INDEX), place, say, pauses, threading.Event())
    try:
        index = json.loads(content)
        fitting = index["kind"] == "latents" and all(
            re.fullmatch(r"\w[\w-]*\.tar", shard["file"])
            and re.fullmatch(r"[0-9a-f]{64}", shard["sha256"])
            and type(shard["bytes"]) is type(shard["count"]) is int
            for shard in index["shards"]
        )
    except (ValueError, KeyError, TypeError):
        fitting = False
    if not fitting:
        raise UserError(f"{place} is no index of latents: runtime.shards must name a copy of data/latents")
    return content


def _check_room(folder: Path, missing: list[dict[str, Any]]) -> None:
    begun = sum(_size(_temporary(folder / shard["file"])) or 0 for shard in missing)
    needed = sum(shard["bytes"] for shard in missing) - begun
    room = shutil.disk_usage(folder).free
    if room < needed:
        problem = f"the shards that are missing take {_mib(needed)}, but only {_mib(room)} are free"
        raise UserError(f"{folder}: {problem}: make room, or put data/latents on another disk")


def _is_there(folder: Path, shard: dict[str, Any]) -> bool:
    return _size(folder / shard["file"]) == shard["bytes"]


def _size(path: Path) -> int | None:
    """Of a file, bytes."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
