"""The files of a folder, a zip or a tar, listed alike and read one by one without unpacking.

Hidden files and what operating systems leave behind are not listed. A name that leaves the archive and a link that
leads outside are refused: the archive may come from a stranger.
"""

import gzip
import os
import posixpath
import re
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

from scm.errors import UserError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
GZIP_RATIO = 100
GZIP_FREE_BYTES = 2**30
"""A .tar.gz may grow GZIP_RATIO times when it is unpacked, and in any case to GZIP_FREE_BYTES."""


@dataclass(frozen=True)
class Member:
    """A file of a folder or archive: its declared size in bytes, and how to read it."""

    size: int
    read: Callable[[], bytes]


@dataclass
class Listing:
    """What a folder or archive holds, by path inside it ('/' between parts); `links` maps a link to its target."""

    files: dict[str, Member] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)


def list_files(path: Path, stack: ExitStack) -> Listing:
    """Lists a folder, .zip, .tar or .tar.gz; `stack` closes the archive when its files are no longer read.

    Raises:
        UserError: the path is missing or no archive, or something in it leads outside.
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
            listing = _list_tar(stack.enter_context(tarfile.TarFile(fileobj=plain)), path)
        else:
            raise UserError(f"{path} is no folder and no archive: use one of {', '.join(ARCHIVE_SUFFIXES)}")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as an archive ({error}): copy or pack it again") from error
    _follow_links(listing, path)
    return listing


def _list_folder(path: Path) -> Listing:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): change its permissions or remove it")

    listing, base = Listing(), os.path.realpath(path)
    for folder, folders, files in os.walk(base, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in [*folders, *(name for name in files if not _is_hidden(name))]:
            full = Path(folder, name)
            inner = full.relative_to(base).as_posix()
            if full.is_symlink():
                _check_folder_link(full, base, f"{path}: {shown(inner)}")
            if full.is_dir():
                listing.folders.add(inner)
            elif full.is_file():
                listing.files[inner] = Member(full.stat().st_size, full.read_bytes)
    return listing


def _check_folder_link(link: Path, base: str, name: str) -> None:
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(base):
        raise UserError(f"{name} is a link out of the folder: put the file itself there")
    if not target.is_file():
        raise UserError(
            f"{name} is a link to {'a folder' if target.is_dir() else 'nothing'}: put images there or delete it"
        )


def _list_zip(archive: zipfile.ZipFile, path: Path) -> Listing:
    listing = Listing()

    def reader(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        return lambda: archive.read(info)

    for info in archive.infolist():
        name = _inner_name(info.filename, path)
        if _is_hidden(name):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            target = archive.read(info)[:4096].decode(errors="surrogateescape") if info.file_size <= 4096 else ""
            listing.links[name] = _link_target(posixpath.dirname(name), target, name, path)
        elif info.is_dir():
            listing.folders.add(name)
        else:
            listing.files[name] = Member(info.file_size, reader(info))
    return listing


def _list_tar(archive: tarfile.TarFile, path: Path) -> Listing:
    listing = Listing()

    def reader(info: tarfile.TarInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            handle = archive.extractfile(info)
            return handle.read() if handle else b""

        return read

    for info in archive:
        name = _inner_name(info.name, path)
        if not name or _is_hidden(name):
            continue
        if info.issym() or info.islnk():
            start = posixpath.dirname(name) if info.issym() else ""
            listing.links[name] = _link_target(start, info.linkname, name, path)
        elif info.isdir():
            listing.folders.add(name)
        elif info.isreg():
            listing.files[name] = Member(info.size, reader(info))
    return listing


def _ungzipped(path: Path, stack: ExitStack) -> IO[bytes]:
    """The tar inside a .tar.gz as an unnamed temporary file, since images are read in another order than packed."""
    limit = max(GZIP_FREE_BYTES, GZIP_RATIO * path.stat().st_size)
    plain = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack is its context)
    with gzip.open(path) as packed:
        while block := packed.read(2**20):
            if plain.tell() + len(block) > limit:
                raise UserError(f"{path} grows to more than {limit:,} bytes: unpack it by hand if that is right")
            plain.write(block)
    plain.seek(0)
    return plain


def _inner_name(name: str, path: Path) -> str:
    """The member's path without '.' and doubled or foreign slashes; refuses one that leaves the archive."""
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or re.match("[A-Za-z]:/", text) or ".." in parts:
        raise UserError(
            f"{path}: the member {shown(name)} points outside the archive: pack the images again without it"
        )
    return "/".join(parts)


def _link_target(start: str, target: str, name: str, path: Path) -> str:
    inner = posixpath.normpath(posixpath.join(start, target))
    if inner.startswith(("/", "../")) or inner == "..":
        raise UserError(f"{path}: the member {shown(name)} is a link out of the archive: pack the file itself")
    return inner


def _follow_links(listing: Listing, path: Path) -> None:
    """Gives each link of an archive the file that it leads to."""
    for link in sorted(listing.links):
        target, seen = link, set()
        while target in listing.links and target not in seen:
            seen.add(target)
            target = listing.links[target]
        if target not in listing.files:
            raise UserError(
                f"{path}: the member {shown(link)} is a link to no file of the archive: pack the file itself"
            )
        listing.files[link] = listing.files[target]


def shown(name: str) -> str:
    """A file name as it may appear in a one-line message."""
    return name if name.isprintable() else ascii(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in LITTER for part in name.split("/"))
