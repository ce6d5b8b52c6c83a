"""List the members of a tar: all of them, or none if the archive is damaged anywhere between its first and last byte.

Python's tarfile takes a damaged header for the end of the archive, and many a number in a header on trust.
Here each header has to be whole, every member has to lie inside the file, and after the last one nothing may follow but
zeros, of which an archive has at least one block.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
EXTENSION_BYTES = 2**20
"""Longest extension (a long name, a list of PAX records) in bytes."""
ENDING_BYTES = 2**20 + BLOCK
"""Most zeros after the last member. tar's largest usual record has 2**20 bytes; a file that was laid out in full and
filled in part has more."""

FILE, FOLDER, LINK, HARD_LINK, OTHER = "file", "folder", "link", "hard link", "other"
KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARD_LINK, b"2": LINK, b"5": FOLDER, b"D": FOLDER}
WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Types of members whose size counts no bytes of the archive."""
LONG_NAME, LONG_TARGET, SPARSE, CONTINUED = b"L", b"K", b"S", b"M"
RECORDS, RECORDS_OF_ALL = (b"x", b"X"), b"g"
RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")


class Member(NamedTuple):
    """A member of a tar.

    Attributes:
        name: its path; bytes that are no UTF-8 are lone surrogates.
        kind: FILE, FOLDER, LINK, HARD_LINK or OTHER (a device, a pipe, ...).
        place: offset of its content in the file that the descriptor is open on.
        size: bytes of its content.
        target: where a link leads.
    """

    name: str
    kind: str
    place: int
    size: int
    target: str = ""


class _Header(NamedTuple):
    name: bytes
    kind: bytes
    size: int
    target: bytes


def read_at(descriptor: int, place: int, size: int) -> bytes:
    """Reads `size` bytes from `place` on, without moving the file's position, which threads share."""
    data = os.pread(descriptor, size, place)
    if len(data) < size:
        raise EOFError(f"the archive ends {size - len(data):,} bytes too early")
    return data


def tar_members(descriptor: int, start: int = 0, size: int | None = None) -> Iterator[Member]:
    """Yields the members of the tar that an open file holds from `start` on, one by one.

    Raises:
        tarfile.ReadError: the archive is damaged or cut off, followed by other bytes, or holds a file with holes. The
            text names the place and the member before it.
    """
    end = os.fstat(descriptor).st_size if size is None else start + size
    place, last = start, ""
    of_all: dict[str, bytes] = {}
    of_next: dict[str, bytes] = {}
    try:
        while header := _header(descriptor, place, end):
            content = place + BLOCK
            if header.kind in (LONG_NAME, LONG_TARGET, RECORDS_OF_ALL, *RECORDS):
                data = _extension(descriptor, content, end, header.size)
                if header.kind in (LONG_NAME, LONG_TARGET):
                    of_next["path" if header.kind == LONG_NAME else "linkpath"] = data.split(b"\0")[0]
                else:
                    (of_all if header.kind == RECORDS_OF_ALL else of_next).update(_records(data))
                place = content + _padded(header.size)
                continue
            member = _member(header, content, {**of_all, **of_next})
            occupied = 0 if header.kind in WITHOUT_DATA else member.size
            if content + _padded(occupied) > end:
                raise tarfile.ReadError(f"the member {member.name} is cut off")
            yield member
            place, last, of_next = content + _padded(occupied), member.name, {}
        if of_next:
            raise tarfile.ReadError("the archive ends after a long name or PAX records without their member")
        _check_ending(descriptor, place, end)
    except tarfile.ReadError as error:
        after = f"after the member {last}" if last else "before the first member"
        raise tarfile.ReadError(f"{error}; at byte {place:,}, {after}") from None


def _header(descriptor: int, place: int, end: int) -> _Header | None:
    """The header at `place`; None if the archive's end is there."""
    block = os.pread(descriptor, min(BLOCK, end - place), place)
    if len(block) < BLOCK or block.count(0) == BLOCK:
        return None
    if not _is_sum(_number(block[148:156]), block):
        raise tarfile.ReadError("a damaged header, or no tar at all")
    name, prefix = block[:100].split(b"\0")[0], b""
    if block[257:263] == b"ustar\0":  # GNU's own format keeps other things there
        room = 131 if block[508:] == b"tar\0" else 155
        prefix = block[345 : 345 + room].split(b"\0")[0]
    kind, size = block[156:157], _number(block[124:136])
    if kind == b"\0" and name.endswith(b"/"):
        kind = b"5"
    return _Header(b"/".join(filter(None, (prefix, name))), kind, size, block[157:257].split(b"\0")[0])


def _is_sum(given: int, block: bytes) -> bool:
    """True for the sum of a header's bytes, with spaces in the place of the sum; some programs add signed bytes."""
    counted = block[:148] + b" " * 8 + block[156:]
    total = sum(counted)
    return given == total or given == total - 256 * sum(byte > 127 for byte in counted)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's binary form."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise tarfile.ReadError("a size below zero")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise tarfile.ReadError("a damaged header, or no tar at all")
    return int(digits or b"0", 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _extension(descriptor: int, place: int, end: int, size: int) -> bytes:
    if size > EXTENSION_BYTES or place + _padded(size) > end:
        raise tarfile.ReadError(f"a long name or PAX records of {size:,} bytes")
    return read_at(descriptor, place, size)


def _records(data: bytes) -> dict[str, bytes]:
    """PAX records, each of which is '<its length> <key>=<value>' and a line's end."""
    records, position = {}, 0
    while position < len(data):
        found = RECORD.match(data, position)
        stop = position + int(found[1]) if found else 0
        if not found or not found.end() < stop <= len(data) or data[stop - 1 : stop] != b"\n":
            raise tarfile.ReadError("damaged PAX records")
        records[found[2].decode(errors="replace")] = data[found.end() : stop - 1]
        position = stop
    return records


def _member(header: _Header, place: int, records: dict[str, bytes]) -> Member:
    """The member of a header, with the records that speak of it."""
    name = (records.get("path") or header.name).decode(errors="surrogateescape")
    target = (records.get("linkpath") or header.target).decode(errors="surrogateescape")
    if header.kind == SPARSE or any(key.startswith("GNU.sparse.") for key in records):
        raise tarfile.ReadError(f"the member {name} is stored with holes, which tar --sparse does")
    if header.kind == CONTINUED:
        raise tarfile.ReadError(f"the member {name} begins in another volume")
    size = header.size
    if given := records.get("size"):
        if not re.fullmatch(rb"\d{1,18}", given):
            raise tarfile.ReadError(f"the member {name} has a damaged size in its PAX records")
        size = int(given)
    return Member(name, KINDS.get(header.kind, OTHER), place, size, target)


def _check_ending(descriptor: int, place: int, end: int) -> None:
    """Refuses an archive without a block of zeros at its end, or with other bytes or too many zeros there."""
    if end - place < BLOCK:
        raise tarfile.ReadError("the archive is cut off: it lacks the zeros of its end")
    position = place
    while position < end:
        block = read_at(descriptor, position, min(2**20, end - position))
        if rest := block.lstrip(b"\0"):
            found = position + len(block) - len(rest)
            raise tarfile.ReadError(f"the archive's end, and other bytes after it, from {found:,} on")
        position += len(block)
    if end - place > ENDING_BYTES:
        raise tarfile.ReadError(f"{end - place:,} zeros to the end, as in a file that was not downloaded in full")
