"""List the members of a zip and read them, from any thread: no more is unpacked than a member says that it holds.

Python's zipfile unpacks a member before it looks at the size, takes any directory that it finds near the file's end,
and reads all names without the UTF-8 flag in the code page of old IBM PCs. Here the directory has to be where the end
of the file says that it is, and to have as many entries as it says; no two members may share bytes.
"""

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from scm.data.reading.tars import read_at

END, END64, LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
ENTRY, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
COMMENT_BYTES = 2**16 - 1
FULL16, FULL32 = 2**16 - 1, 2**32 - 1
"""What stands in a field whose number is in a field of 64 bits elsewhere."""
ZIP64, UNICODE_NAME = 0x0001, 0x7075
"""Extra fields: the numbers of 64 bits, and the name in UTF-8."""
ENCRYPTED, PATCH, IS_UTF8 = 0x1, 0x20, 0x800
"""Flags of an entry."""
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
FREE_GAP, DESCRIPTORS = 64, (12, 16, 20, 24)
"""So many bytes behind a member are not looked at; the lengths of the sizes and checksum that may follow it."""
HEAD_PACKED = 2**20
"""Packed bytes that are read for the first few bytes of a member, at most: bzip2 unpacks whole blocks alone."""
SPARE_PACKED = 2**16
"""Packed, a member may be twice its size and this many bytes more."""


@dataclass(frozen=True)
class Entry:
    """What the directory says of a member: `packed` and `size` in bytes, `place` of its local header."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    place: int
    mode: int


def zip_members(descriptor: int) -> Iterator[tuple[int, Entry]]:
    """Yields the members as (place of the entry in the directory, entry).

    Raises:
        zipfile.BadZipFile: the directory is damaged, or no whole one is there; two members share bytes.
    """
    start, end, count = _directory(descriptor)
    place, found = start, 0
    begins, ends = array("q"), array("q")
    while place < end:
        entry, length = _entry(descriptor, place)
        begins.append(entry.place)
        ends.append(entry.place + LOCAL.size + len(entry.raw_name) + entry.packed)
        yield place, entry
        place, found = place + length, found + 1
    if found % 2**16 != count % 2**16 or place != end:  # without 64 bits, programs count from 0 again after 65,535
        raise zipfile.BadZipFile(f"its directory has {found:,} entries, and its end says {count:,}")
    order = sorted(range(found), key=begins.__getitem__)
    for one, other in pairwise(order):
        if ends[one] > begins[other]:
            raise zipfile.BadZipFile(f"two members share the bytes from {begins[other]:,} on")
    if order and ends[order[-1]] > start:
        raise zipfile.BadZipFile("its last member reaches into the directory")
    # Does anything lie between the members that the directory does not list?
    stops = [begins[number] for number in order] + [start]
    _check_gap(descriptor, 0, stops[0])
    for number, stop in zip(order, stops[1:], strict=True):
        if stop - ends[number] > FREE_GAP:
            extra_size = LOCAL.unpack(read_at(descriptor, begins[number], LOCAL.size))[10]
            _check_gap(descriptor, ends[number] + extra_size, stop)


def _check_gap(descriptor: int, place: int, stop: int) -> None:
    """Refuses a member between `place` and `stop`; the sizes of the member before may stand there first."""
    for size in (0, *DESCRIPTORS):
        if place + size + LOCAL.size <= stop and read_at(descriptor, place + size, 4) == b"PK\3\4":
            raise zipfile.BadZipFile(f"its directory does not list the member at byte {place + size:,}")


def read_member(descriptor: int, place: int) -> bytes:
    """The content of the member whose entry in the directory is at `place`.

    Raises:
        zipfile.BadZipFile, EOFError, or an error of a decompressor: the member is damaged, encrypted, packed in an
            unknown way, or holds more or less than it claims.
    """
    entry, _ = _entry(descriptor, place)
    if entry.packed > 2 * entry.size + SPARE_PACKED:
        raise zipfile.BadZipFile(f"says that {entry.packed:,} packed bytes hold {entry.size:,}")
    data = _unpacked(entry, read_at(descriptor, _content(descriptor, entry), entry.packed), entry.size + 1)
    if len(data) != entry.size:
        more = "more" if len(data) > entry.size else "less"
        raise zipfile.BadZipFile(f"holds {more} than the {entry.size:,} bytes that it claims")
    if zlib.crc32(data) != entry.crc:
        raise zipfile.BadZipFile("Bad CRC-32")
    return data


def read_member_head(descriptor: int, place: int, size: int) -> bytes:
    """The first bytes of a member, `size` at most; nothing is checked."""
    entry, _ = _entry(descriptor, place)
    packed = read_at(descriptor, _content(descriptor, entry), min(entry.packed, HEAD_PACKED))
    return _unpacked(entry, packed, size)[:size]


def _directory(descriptor: int) -> tuple[int, int, int]:
    """Place and end of the directory in the file, and the number of its entries."""
    file_size = os.fstat(descriptor).st_size
    tail_size = min(file_size, END.size + COMMENT_BYTES)
    tail = read_at(descriptor, file_size - tail_size, tail_size)
    stop = len(tail) - END.size + 4
    while (at := tail.rfind(b"PK\5\6", 0, stop)) >= 0:
        stop = at + 3  # the next one that is found begins before this one
        _, disk, _, _, count, size, start, comment = END.unpack_from(tail, at)
        if at + END.size + comment == len(tail):
            break
    else:
        raise zipfile.BadZipFile("no zip, or cut off, or something follows its end")
    end = file_size - tail_size + at
    if disk not in (0, FULL16):
        raise zipfile.BadZipFile("it is one part of several")
    locator = os.pread(descriptor, LOCATOR64.size, max(0, end - LOCATOR64.size))
    if locator.startswith(b"PK\6\7"):
        count, size, start, end = _directory64(descriptor, LOCATOR64.unpack(locator)[2], end)
    if start + size != end:
        raise zipfile.BadZipFile("its directory is not where its end says: damaged, or something was put before it")
    return start, end, count


def _directory64(descriptor: int, place: int, end: int) -> tuple[int, int, int, int]:
    """Number of entries, size and place of the directory of a zip with numbers of 64 bits, and what follows it."""
    if place > end - LOCATOR64.size - END64.size:
        raise zipfile.BadZipFile("the end of its directory is damaged")
    signature, *_, count, size, start = END64.unpack(read_at(descriptor, place, END64.size))
    if signature != b"PK\6\6":
        raise zipfile.BadZipFile("the end of its directory is damaged")
    return count, size, start, place


def _entry(descriptor: int, place: int) -> tuple[Entry, int]:
    """The entry of the directory at `place`, and its length."""
    fields = ENTRY.unpack(read_at(descriptor, place, ENTRY.size))
    if fields[0] != b"PK\1\2":
        raise zipfile.BadZipFile(f"its directory is damaged at byte {place:,}")
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    name_size, extra_size, comment_size = fields[10:13]
    rest = read_at(descriptor, place + ENTRY.size, name_size + extra_size)
    raw, extra = rest[:name_size], _extra(rest[name_size:])
    at = fields[16]
    # Numbers of 64 bits stand in an extra field, in this order, for those that are full.
    wide, numbers = extra.get(ZIP64, b""), [size, packed, at]
    for index, number in enumerate(numbers):
        if number == FULL32:
            if len(wide) < 8:
                raise zipfile.BadZipFile(f"its directory is damaged at byte {place:,}: a size of 64 bits is missing")
            numbers[index], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    if max(numbers) >= 2**61:
        raise zipfile.BadZipFile(f"its directory is damaged at byte {place:,}: a number of {max(numbers):,}")
    size, packed, at = numbers
    mode = fields[15] >> 16
    entry = Entry(raw, _name(raw, flags, extra), flags, method, crc, packed, size, at, mode)
    return entry, ENTRY.size + name_size + extra_size + comment_size


def _extra(data: bytes) -> dict[int, bytes]:
    """The extra fields by their numbers."""
    fields, position = {}, 0
    while position + 4 <= len(data):
        number, size = struct.unpack_from("<2H", data, position)
        fields.setdefault(number, data[position + 4 : position + 4 + size])
        position += 4 + size
    return fields


def _name(raw: bytes, flags: int, extra: dict[int, bytes]) -> str:
    """The name. Without the flag for UTF-8 it is in UTF-8 nevertheless, as macOS writes it, or in code page 437."""
    given = extra.get(UNICODE_NAME, b"")
    if given[:1] == b"\1" and given[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
        raw, flags = given[5:], flags | IS_UTF8
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & IS_UTF8 else raw.decode("cp437")


def _content(descriptor: int, entry: Entry) -> int:
    """Where the packed content of a member begins."""
    fields = LOCAL.unpack(read_at(descriptor, entry.place, LOCAL.size))
    name_size, extra_size = fields[9:11]
    if fields[0] != b"PK\3\4" or read_at(descriptor, entry.place + LOCAL.size, name_size) != entry.raw_name:
        raise zipfile.BadZipFile("the archive's directory and the member do not agree")
    if entry.flags & ENCRYPTED:
        raise zipfile.BadZipFile("is encrypted")
    if entry.flags & PATCH:
        raise zipfile.BadZipFile("is packed as a patch, which is not read")
    return entry.place + LOCAL.size + name_size + extra_size


def _unpacked(entry: Entry, packed: bytes, most: int) -> bytes:
    """What `packed` holds, `most` bytes of it."""
    if entry.method == STORED:
        return packed[:most]
    if entry.method == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
    if entry.method == BZIP2:
        return bz2.BZ2Decompressor().decompress(packed, most)
    if entry.method == LZMA:
        return _unpacked_lzma(packed, most)
    raise zipfile.BadZipFile(f"is packed by method {entry.method}, which is not read: pack it with deflate")


def _unpacked_lzma(packed: bytes, most: int) -> bytes:
    """LZMA as zip has it: after two bytes of a version the size of the properties, then these."""
    if len(packed) < 9 or packed[2:4] != b"\5\0":
        raise zipfile.BadZipFile("its LZMA properties are damaged")
    literal, dictionary = packed[4], int.from_bytes(packed[5:9], "little")
    chosen = {
        "id": lzma.FILTER_LZMA1,
        "lc": literal % 9,
        "lp": literal // 9 % 5,
        "pb": literal // 45,
        "dict_size": max(4096, min(dictionary, most)),  # a larger one would only take memory
    }
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[chosen]).decompress(packed[9:], most)
    except lzma.LZMAError as error:
        raise zipfile.BadZipFile(f"its LZMA data are damaged ({error})") from None
