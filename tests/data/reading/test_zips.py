"""Zips: what zipfile writes is read as it reads it; names are right; no member unpacks to more than it says."""

import io
import os
import random
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from scm.data.reading.images import IMAGE_FAULTS
from scm.data.reading.zips import read_member, read_member_head, zip_members

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
CONTENT = random.Random(0).randbytes(2000) + bytes(3000)
FILES = {"cat/a.png": CONTENT, "cat/b.png": b"", "dog/": b"", "dog/ü.png": CONTENT[:9]}
ENTRY, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"


def packed(files=FILES, method=zipfile.ZIP_DEFLATED, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def read(content, tmp_path, head=None):
    """The members by their names."""
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with path.open("rb") as handle:
        descriptor = handle.fileno()
        members = list(zip_members(descriptor))
        if head is None:
            return {entry.name: read_member(descriptor, place) for place, entry in members}
        return {entry.name: read_member_head(descriptor, place, head) for place, entry in members}


def refused(content, tmp_path):
    with pytest.raises(IMAGE_FAULTS) as caught:
        read(content, tmp_path)
    return str(caught.value)


def changed(content, signature, offset, value, which=0):
    """The zip with other bytes `offset` bytes behind the given one of the places with this signature."""
    at = -1
    for _ in range(which + 1):
        at = content.index(signature, at + 1)
    return content[: at + offset] + value + content[at + offset + len(value) :]


@pytest.mark.parametrize("method", METHODS)
def test_what_the_standard_library_writes_is_read(tmp_path, method):
    assert read(packed(method=method), tmp_path) == FILES
    heads = read(packed(method=method), tmp_path, head=64)
    assert heads == {name: content[:64] for name, content in FILES.items()}


def test_numbers_of_64_bits(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.png", "w", force_zip64=True) as member:
        member.write(CONTENT)
    assert read(buffer.getvalue(), tmp_path) == {"a.png": CONTENT}
    # The entry and the end of the directory say that their numbers are elsewhere.
    plain, place = packed({"a.png": CONTENT}), 0
    at = plain.index(ENTRY)
    extra = struct.pack("<2HQQQ", 1, 24, len(CONTENT), struct.unpack_from("<L", plain, at + 20)[0], place)
    entry = bytearray(plain[at : at + 46 + 5] + extra)
    struct.pack_into("<2L", entry, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 2**32 - 1)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(entry), 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    wide = plain[:at] + bytes(entry) + end64 + locator + end
    assert read(wide, tmp_path) == {"a.png": CONTENT}
    assert "64 bits is missing" in refused(wide.replace(extra[:4], b"\2\0\x18\0"), tmp_path)
    assert "a number of" in refused(wide.replace(extra[4:12], b"\xff" * 8), tmp_path)
    assert "is damaged" in refused(wide.replace(locator[8:16], b"\xff" * 8), tmp_path)


def test_more_members_than_16_bits_count(tmp_path):
    content = packed({f"{number}": b"" for number in range(65_537)}, zipfile.ZIP_STORED)
    assert len(read(content, tmp_path)) == 65_537


def test_a_comment_even_one_that_looks_like_an_end(tmp_path):
    for comment in (b"hello", b"x" * 65_535, END + bytes(30), END * 9):
        assert read(packed(comment=comment), tmp_path) == FILES


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "cut off, or something follows"),
        (lambda content: content + b"\n", "something follows its end"),
        (lambda content: b"", "no zip"),
        (lambda content: b"x" + content, "something was put before it"),
        (lambda content: content + content, "something was put before it"),
        (lambda content: changed(content, END, 10, b"\3"), "has 4 entries, and its end says 3"),
        (lambda content: changed(content, END, 4, b"\1"), "one part of several"),
        (lambda content: changed(content, ENTRY, 0, b"PJ", which=2), "its directory is damaged at byte"),
        (lambda content: changed(content, ENTRY, 28, b"\x0a", which=1), "its directory is damaged at byte"),
        (lambda content: changed(content, ENTRY, 42, b"\0\0\0\0", which=1), "two members share the bytes from 0"),
        (lambda content: changed(content, ENTRY, 42, b"\xff\xff\0\0", which=3), "reaches into the directory"),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path, damage, message):
    assert message in refused(damage(packed()), tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: changed(content, ENTRY, 6, b"\xff"), None),  # "version 25.5": what counts is the method
        (lambda content: changed(content, ENTRY, 8, b"\1"), "is encrypted"),
        (lambda content: changed(content, ENTRY, 8, b"\x20"), "is packed as a patch"),
        (lambda content: changed(content, ENTRY, 10, b"\x09"), "is packed by method 9, which is not read"),
        (lambda content: changed(content, ENTRY, 16, b"\0\0\0\0"), "Bad CRC-32"),
        (lambda content: changed(content, ENTRY, 24, b"\x01\0\0\0"), "holds more than the 1 bytes that it claims"),
        (lambda content: changed(content, ENTRY, 24, b"\xff\xff\0\0"), "holds less than the 65,535 bytes"),
        (lambda content: changed(content, ENTRY, 46, b"d"), "do not agree"),
        (lambda content: changed(content, LOCAL, 30, b"d"), "do not agree"),
        (lambda content: changed(content, LOCAL, 0, b"PJ"), "do not agree"),
    ],
)
def test_a_damaged_member_is_refused(tmp_path, damage, message):
    content = damage(packed())
    if message is None:
        assert read(content, tmp_path) == FILES
    else:
        assert message in refused(content, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path, method):
    """Each claims 100,000 bytes and holds 64 MiB; what is unpacked is counted by the decompressors themselves."""
    content = packed({"a.png": bytes(2**26)}, method)
    content = changed(content, ENTRY, 24, struct.pack("<L", 100_000))
    tracemalloc.start()
    message = refused(content, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "holds more than" in message or "packed bytes hold 100,000" in message
    assert peak < 2**22 + (len(content) if method == zipfile.ZIP_STORED else 0)


def test_a_huge_lzma_dictionary_is_not_taken_at_its_word(tmp_path):
    content = packed({"a.png": CONTENT}, zipfile.ZIP_LZMA)
    at = content.index(b"\5\0", 30 + 5) + 3  # behind the size of the properties and the first of them
    assert read(content[:at] + b"\xff" * 4 + content[at + 4 :], tmp_path) == {"a.png": CONTENT}


def named(raw, flags=0, extra=b""):
    """A zip of one member with these bytes as its name."""
    content = packed({"x" * len(raw): b"-"}).replace(b"x" * len(raw), raw)
    content = changed(changed(content, LOCAL, 6, struct.pack("<H", flags)), ENTRY, 8, struct.pack("<H", flags))
    if not extra:
        return content
    at = content.index(ENTRY) + 46 + len(raw)
    content = changed(content, ENTRY, 30, struct.pack("<H", len(extra)))
    content = changed(content, END, 12, struct.pack("<L", 46 + len(raw) + len(extra)))
    return content[:at] + extra + content[at:]


def unicode_name(raw, name):
    body = b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    return struct.pack("<2H", 0x7075, len(body)) + body


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (named("zèbre.png".encode(), 0x800), "zèbre.png"),
        (named("zèbre.png".encode()), "zèbre.png"),  # as macOS writes it
        (named("zèbre.png".encode("cp437")), "zèbre.png"),
        (named(b"l\xff.png", 0x800), "l\udcff.png"),
        (named(b"l\xff.png"), "l\xa0.png"),
        (named(b"?ebra.png", extra=unicode_name(b"?ebra.png", "żebra.png")), "żebra.png"),
        (named(b"?ebra.png", extra=unicode_name(b"other", "żebra.png")), "?ebra.png"),
    ],
)
def test_names(tmp_path, content, name):
    assert read(content, tmp_path) == {name: b"-"}


def test_threads_share_one_open_file(tmp_path):
    path = tmp_path / "x.zip"
    files = {f"{number}.png": os.urandom(5000) for number in range(50)}
    path.write_bytes(packed(files))
    with path.open("rb") as handle, ThreadPoolExecutor(8) as pool:
        places = [place for place, _ in zip_members(handle.fileno())] * 4
        contents = list(pool.map(lambda place: read_member(handle.fileno(), place), places))
    assert contents == list(files.values()) * 4


class Stream(io.BytesIO):
    """A file that cannot be written at another place, so that the sizes follow each member."""

    def tell(self):
        raise OSError


@pytest.mark.parametrize("left_out", [0, 1, 3])
@pytest.mark.parametrize(("kind", "descriptors"), [(io.BytesIO, 0), (Stream, 4)])
def test_a_member_that_the_directory_does_not_list_is_refused(tmp_path, left_out, kind, descriptors):
    buffer = kind()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.png", CONTENT[:99])
        archive.filelist.pop(left_out)
    content = buffer.getvalue()
    assert content.count(b"PK\7\x08") == descriptors
    place = content.index(f"{left_out}.png".encode()) - 30
    assert f"its directory does not list the member at byte {place:,}" in refused(content, tmp_path)


def test_sizes_behind_a_member_are_no_member(tmp_path):
    buffer = Stream()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert read(buffer.getvalue(), tmp_path) == FILES
