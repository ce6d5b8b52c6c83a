"""List a folder, a zip or a tar alike, and read its files one by one, from any thread, without unpacking.

Each file is listed as a file or as skipped, or the whole is refused. Hidden files, litter of operating systems, pipes
and devices are skipped. Names and links that lead out of the archive are refused, as it may come from a stranger.
"""

import errno
import gzip
import os
import posixpath
import re
import shlex
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scm.base.files import room_in
from scm.base.litter import is_litter
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.skipped import Skipped
from scm.data.reading.tars import FILE, FOLDER, HARD_LINK, LINK, read_at, tar_members
from scm.data.reading.zips import read_member, read_member_head, zip_members
from scm.errors import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
UNPACK = {
    ".xz": "xz -d", ".txz": "xz -d", ".lzma": "xz -d", ".zst": "zstd -d --rm",
    ".tzst": "zstd -d --rm", ".bz2": "bzip2 -d", ".tbz2": "bzip2 -d", ".tbz": "bzip2 -d", ".lz4": "lz4 -d --rm",
    ".gz": "gzip -d", ".tgz": "gzip -d",
}  # fmt: skip
"""Commands that unpack what is not read as it is, by the last suffix; none leaves the packed file beside the other."""
ARCHIVE_FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
HIDDEN, SPECIAL = "hidden, or left there by a system", "a pipe, a device or the like"
"""Why files are skipped."""
LINK_BYTES = 4096
GZIP_RATIO, GZIP_FREE_BYTES = 100, 2**30
"""An unpacked .tar.gz may have GZIP_RATIO times its size, or GZIP_FREE_BYTES if that is more."""

Read = Callable[[Catalogue, int], bytes]
"""Reads the file with this number; any thread may call it."""
HEAD_BYTES = 64
"""First bytes of a file, by which its kind is known."""


@dataclass
class Listing:
    """The files and folders of a folder or archive.

    Attributes:
        read: reads one of `files`, or of another catalogue with the same names and places.
        head: reads the first bytes, HEAD_BYTES at most.
        files: by their paths inside, with '/' between the parts.
        folders: paths of the folders, likewise.
        links: maps a link of an archive to its target; `list_files` adds these to `files`.
        skipped: what is not among `files`, with the reason.
    """

    read: Read
    head: Read
    files: Catalogue = field(default_factory=Catalogue)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append({"file": name, "reason": reason})


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
    if not suffix.endswith(ARCHIVE_SUFFIXES):
        refuse_packed(path, path)
        raise UserError(f"{path} is no folder and no archive: use one of {', '.join(ARCHIVE_SUFFIXES)}")
    try:
        handle = stack.enter_context(path.open("rb", buffering=0))
        if suffix.endswith(".zip"):
            listing = _list_zip(handle.fileno(), path)
        elif suffix.endswith("gz"):
            plain = unnamed_file(stack)
            ungzip(path, plain)
            listing = _list_tar(plain.fileno(), path)
        else:
            listing = _list_tar(handle.fileno(), path)
    except ARCHIVE_FAULTS as error:
        raise unreadable(path, error) from error
    _follow_links(listing, path)
    return listing


def refuse_packed(file: Path, path: Path) -> None:
    """Refuses `file`, which is or lies in data.path (`path`), if it is packed in a way that is not read."""
    if command := UNPACK.get(file.suffix.lower()):
        more = ", and set data.path to what it leaves" if file == path else ""
        raise UserError(f"{file} is packed in a way that is not read: run `{command} {shlex.quote(str(file))}`{more}")


def unreadable(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} cannot be read as an archive ({error}): copy or pack it again")


def _list_folder(path: Path) -> Listing:
    base = os.path.realpath(path)

    def read(files: Catalogue, number: int) -> bytes:
        return Path(base, files.name(number)).read_bytes()

    def head(files: Catalogue, number: int) -> bytes:
        with Path(base, files.name(number)).open("rb", buffering=0) as file:
            return file.read(HEAD_BYTES)

    listing = Listing(read, head)
    _walk(base, path, listing)
    return listing


def _walk(base: str, path: Path, listing: Listing) -> None:
    """Lists all files, folder by folder in the order of their names, so that nothing has to be sorted later."""
    waiting = [iter([""])]  # of each open folder the paths that are still to be listed
    while waiting:
        inner = next(waiting[-1], None)
        if inner is None:
            waiting.pop()
            continue
        litter = is_litter(inner)
        try:
            kind = _list_entry(base, inner, litter, path, listing)
            if stat.S_ISDIR(kind):
                names = os.listdir(f"{base}/{inner}")  # noqa: PTH208
                waiting.append(iter(sorted(posixpath.join(inner, name) for name in names)))
        except OSError as error:
            if not litter:
                problem = f"{Path(path, inner)} cannot be read ({error.strerror})"
                raise UserError(f"{problem}: change its permissions or remove it") from None
            listing.skip(inner, HIDDEN)


def _list_entry(base: str, inner: str, litter: bool, path: Path, listing: Listing) -> int:
    """Lists one file or folder, and returns its mode; litter is skipped, and its links lead nowhere."""
    full = f"{base}/{inner}"  # a Path would take longer than the file system does
    info = os.lstat(full)
    if stat.S_ISLNK(info.st_mode) and not litter:
        _check_folder_link(full, base, f"{path}: {shown(inner)}")
        info = os.stat(full)  # noqa: PTH116
    if stat.S_ISDIR(info.st_mode):
        if inner and not litter:
            listing.folders.add(inner)
    elif litter:
        listing.skip(inner, HIDDEN)
    elif stat.S_ISREG(info.st_mode):
        listing.files.add(inner, 0, info.st_size)
    else:
        listing.skip(inner, SPECIAL)
    return info.st_mode


def _check_folder_link(link: str, base: str, name: str) -> None:
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(base):
        raise UserError(f"{name} is a link out of the folder: put the file itself there")
    if not target.is_file():
        where = "a folder" if target.is_dir() else "nothing"
        raise UserError(f"{name} is a link to {where}: put images there or delete it")


def _list_zip(descriptor: int, path: Path) -> Listing:
    def read(files: Catalogue, number: int) -> bytes:
        return read_member(descriptor, files.places[number])

    def head(files: Catalogue, number: int) -> bytes:
        return read_member_head(descriptor, files.places[number], HEAD_BYTES)

    listing = Listing(read, head)
    for place, entry in zip_members(descriptor):
        name = inner_name(entry.name, path)
        if entry.name.endswith(("/", "\\")):
            if entry.size:
                problem = f"the folder {shown(name)} is said to hold {entry.size:,} bytes of its own"
                raise UserError(f"{path}: {problem}: pack the archive again")
            if name and not is_litter(name):
                listing.folders.add(name)
        elif is_litter(name):
            listing.skip(name, HIDDEN)
        elif stat.S_ISLNK(entry.mode):
            content = read_member(descriptor, place) if entry.size <= LINK_BYTES else b""
            target = content.decode(errors="surrogateescape")
            _add_link(listing, name, _link_target(posixpath.dirname(name), target, name, path), path)
        else:
            listing.files.add(name, place, entry.size)
    return listing


def _list_tar(descriptor: int, path: Path) -> Listing:
    listing = Listing(tar_reader(descriptor), tar_head_reader(descriptor))
    for member in tar_members(descriptor):
        name = inner_name(member.name, path)
        if member.kind == FOLDER:
            if name and not is_litter(name):
                listing.folders.add(name)
        elif is_litter(name):
            listing.skip(name, HIDDEN)
        elif member.kind == FILE:
            listing.files.add(name, member.place, member.size)
        elif member.kind in (LINK, HARD_LINK):
            start = posixpath.dirname(name) if member.kind == LINK else ""
            _add_link(listing, name, _link_target(start, member.target, name, path), path)
        else:
            listing.skip(name, SPECIAL)
    return listing


def tar_reader(descriptor: int) -> Read:
    """Reads members of an open tar, whose places are their offsets in the file."""
    return lambda files, number: read_at(descriptor, files.places[number], files.sizes[number])


def tar_head_reader(descriptor: int) -> Read:
    """Reads the first bytes of such members."""
    return lambda files, number: read_at(descriptor, files.places[number], min(HEAD_BYTES, files.sizes[number]))


def unnamed_file(stack: ExitStack) -> IO[bytes]:
    """A temporary file without a name, which is gone when the process ends in any way."""
    return stack.enter_context(tempfile.TemporaryFile(buffering=0))


def ungzip(path: Path, plain: IO[bytes]) -> int:
    """Unpacks a .tar.gz to the end of an unbuffered temporary file, since images are read in another order than packed.

    Returns:
        The bytes of the tar.
    """
    limit, start = max(GZIP_FREE_BYTES, GZIP_RATIO * path.stat().st_size), plain.tell()
    remedy = f"set TMPDIR to a larger disk, or run gunzip on {path}"
    with gzip.open(path) as packed, room_in(Path(tempfile.gettempdir()), remedy):
        while block := packed.read(2**20):
            if plain.tell() - start + len(block) > limit:
                raise UserError(f"{path} grows to more than {limit:,} bytes: unpack it by hand if that is right")
            if plain.write(block) < len(block):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return plain.tell() - start


def inner_name(name: str, path: Path) -> str:
    """The member's path without '.', doubled slashes and backslashes; refuses a path that leaves the archive."""
    if "\0" in name:
        raise UserError(f"{path}: the member {shown(name)} has a zero byte in its name: pack the archive again")
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or re.match("[A-Za-z]:/", text) or ".." in parts:
        problem = f"the member {shown(name)} points outside the archive"
        raise UserError(f"{path}: {problem}: pack the images again without it")
    if not parts and not text.endswith(("/", ".")):
        raise UserError(f"{path}: a member has no name: pack the archive again")
    return "/".join(parts)


def _link_target(start: str, target: str, name: str, path: Path) -> str:
    inner = posixpath.normpath(posixpath.join(start, target))
    if inner.startswith(("/", "../")) or inner == "..":
        raise UserError(f"{path}: the member {shown(name)} is a link out of the archive: pack the file itself")
    return inner


def _add_link(listing: Listing, name: str, target: str, path: Path) -> None:
    if name in listing.links:
        raise UserError(f"{path}: the member {shown(name)} is there twice: pack the archive again with one of them")
    listing.links[name] = target


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
