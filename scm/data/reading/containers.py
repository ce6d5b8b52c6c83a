"""List a folder, a zip or a tar alike, and read its files one by one, from any thread, without unpacking.

Hidden files and litter of operating systems are not listed. Names and links that lead out of the archive are refused,
as it may come from a stranger.
"""

import errno
import gzip
import io
import os
import posixpath
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scm.base.files import room_in
from scm.data.reading.catalogue import Catalogue
from scm.errors import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
ARCHIVE_FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
GZIP_RATIO, GZIP_FREE_BYTES = 100, 2**30
"""An unpacked .tar.gz may have GZIP_RATIO times its size, or GZIP_FREE_BYTES if that is more."""

Read = Callable[[Catalogue, int], bytes]
"""Reads the file with this number; any thread may call it."""


@dataclass
class Listing:
    """The files and folders of a folder or archive.

    Attributes:
        read: reads one of `files`, or of another catalogue with the same names and places.
        files: by their paths inside, with '/' between the parts.
        folders: paths of the folders, likewise.
        links: maps a link of an archive to its target; `list_files` adds these to `files`.
    """

    read: Read
    files: Catalogue = field(default_factory=Catalogue)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)


def list_files(path: Path, stack: ExitStack) -> Listing:
    """Lists a folder, .zip, .tar or .tar.gz; `stack` later closes the archive.

    Raises:
        UserError: the path does not exist or is no archive, or a name or link in it leads outside.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: set data.path to a folder, .zip or .tar of images")
    if path.is_dir():
        return _list_folder(path)
    suffix = path.name.lower()
    try:
        if suffix.endswith(".zip"):
            listing = _list_zip(stack.enter_context(zipfile.ZipFile(path)), path)
        elif suffix.endswith(ARCHIVE_SUFFIXES):
            plain = _ungzipped(path, stack) if suffix.endswith("gz") else stack.enter_context(path.open("rb"))
            listing = _list_tar(plain, path)
        else:
            raise UserError(f"{path} is no folder and no archive: use one of {', '.join(ARCHIVE_SUFFIXES)}")
    except ARCHIVE_FAULTS as error:
        raise unreadable(path, error) from error
    _follow_links(listing, path)
    return listing


def unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} cannot be read as an archive ({error}): copy or pack it again")


def _list_folder(path: Path) -> Listing:
    base = os.path.realpath(path)
    listing = Listing(lambda files, number: Path(base, files.name(number)).read_bytes())
    _walk(base, "", path, listing)
    return listing


def _walk(base: str, folder: str, path: Path, listing: Listing) -> None:
    """Lists a folder and its sub-folders in the order of their names, so that nothing has to be sorted later."""
    try:
        names = sorted(name for name in os.listdir(Path(base, folder)) if not _is_hidden(name))  # noqa: PTH208
    except OSError as error:
        problem = f"{error.filename} cannot be read ({error.strerror})"
        raise UserError(f"{problem}: change its permissions or remove it") from None
    for name in names:
        inner = f"{folder}/{name}" if folder else name
        full = Path(base, inner)
        if full.is_symlink():
            _check_folder_link(full, base, f"{path}: {shown(inner)}")
        if full.is_dir():
            listing.folders.add(inner)
            _walk(base, inner, path, listing)
        elif full.is_file():
            listing.files.add(inner, 0, full.stat().st_size)


def _check_folder_link(link: Path, base: str, name: str) -> None:
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(base):
        raise UserError(f"{name} is a link out of the folder: put the file itself there")
    if not target.is_file():
        where = "a folder" if target.is_dir() else "nothing"
        raise UserError(f"{name} is a link to {where}: put images there or delete it")


def _list_zip(archive: zipfile.ZipFile, path: Path) -> Listing:
    members, lock = archive.infolist(), threading.Lock()

    def read(files: Catalogue, number: int) -> bytes:
        with lock:  # zipfile counts its open members without one
            return archive.read(members[files.places[number]])

    listing = Listing(read)
    for place, info in enumerate(members):
        name = _inner_name(info.filename, path)
        if _is_hidden(name):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            target = archive.read(info)[:4096].decode(errors="surrogateescape") if info.file_size <= 4096 else ""
            listing.links[name] = _link_target(posixpath.dirname(name), target, name, path)
        elif info.is_dir():
            listing.folders.add(name)
        else:
            listing.files.add(name, place, info.file_size)
    return listing


def _list_tar(handle: IO[bytes], path: Path) -> Listing:
    listing = Listing(tar_reader(handle))
    for info in tar_members(handle):
        name = _inner_name(info.name, path)
        if not name or _is_hidden(name):
            continue
        if info.issym() or info.islnk():
            start = posixpath.dirname(name) if info.issym() else ""
            listing.links[name] = _link_target(start, info.linkname, name, path)
        elif info.isdir():
            listing.folders.add(name)
        elif info.issparse():
            raise UserError(f"{path}: the member {shown(name)} is stored sparsely: pack it again without --sparse")
        elif info.isreg():
            listing.files.add(name, info.offset_data, info.size)
    return listing


def tar_members(handle: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yields the members one by one; tarfile would keep them all in memory."""
    with tarfile.TarFile(fileobj=handle) as archive:
        while info := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]
            yield info


def tar_reader(handle: IO[bytes]) -> Read:
    """Reads members of an open tar, whose places are their offsets in the file."""
    return lambda files, number: read_at(handle.fileno(), files.places[number], files.sizes[number])


def read_at(descriptor: int, place: int, size: int) -> bytes:
    """Reads `size` bytes from `place` on, without moving the file's position, which threads share."""
    data = os.pread(descriptor, size, place)
    if len(data) < size:
        raise EOFError(f"the archive ends {size - len(data):,} bytes too early")
    return data


class Part(io.RawIOBase):
    """A part of an open file as a file of its own, such as a tar in a tar."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._position = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._position))
        data = os.pread(self._descriptor, wanted, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _ungzipped(path: Path, stack: ExitStack) -> IO[bytes]:
    """Unpacks a .tar.gz to an unnamed temporary tar, since images are read in another order than packed."""
    limit = max(GZIP_FREE_BYTES, GZIP_RATIO * path.stat().st_size)
    plain = stack.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (the stack is its context)
    remedy = f"set TMPDIR to a larger disk, or run gunzip on {path}"
    with gzip.open(path) as packed, room_in(Path(tempfile.gettempdir()), remedy):
        while block := packed.read(2**20):
            if plain.tell() + len(block) > limit:
                raise UserError(f"{path} grows to more than {limit:,} bytes: unpack it by hand if that is right")
            if plain.write(block) < len(block):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    plain.seek(0)
    return plain


def _inner_name(name: str, path: Path) -> str:
    """The member's path without '.', doubled slashes and backslashes; refuses a path that leaves the archive."""
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or re.match("[A-Za-z]:/", text) or ".." in parts:
        problem = f"the member {shown(name)} points outside the archive"
        raise UserError(f"{path}: {problem}: pack the images again without it")
    return "/".join(parts)


def _link_target(start: str, target: str, name: str, path: Path) -> str:
    inner = posixpath.normpath(posixpath.join(start, target))
    if inner.startswith(("/", "../")) or inner == "..":
        raise UserError(f"{path}: the member {shown(name)} is a link out of the archive: pack the file itself")
    return inner


def _follow_links(listing: Listing, path: Path) -> None:
    """Adds each link of an archive to its files, with the place of the file that it leads to."""
    if not listing.links:
        return
    # Follow chains of links, which may be circles, to their ends.
    found: dict[str, str] = {}
    for link in sorted(listing.links):
        target, seen = link, set()
        while target in listing.links and target not in seen:
            seen.add(target)
            target = listing.links[target]
        found[link] = target
    # Look for the ends among the files.
    wanted, files = set(found.values()), listing.files
    number_of = {name: number for number in range(len(files)) if (name := files.name(number)) in wanted}
    for link, target in found.items():
        if target not in number_of:
            problem = f"the member {shown(link)} is a link to no file of the archive"
            raise UserError(f"{path}: {problem}: pack the file itself")
        files.add(link, files.places[number_of[target]], files.sizes[number_of[target]])


def shown(name: str) -> str:
    """A file name for a one-line message, escaped if it cannot be printed."""
    return name if name.isprintable() else ascii(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in LITTER for part in name.split("/"))
