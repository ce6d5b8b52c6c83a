"""Tars: what Python's tarfile and GNU's tar write is listed as they list it; whatever is damaged is refused."""

import io
import itertools
import os
import shutil
import struct
import subprocess
import tarfile

import pytest

from scm.data.reading.tars import BLOCK, tar_members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
CONTENT = bytes(range(256)) * 3
NAMES = ["a.png", "cat/b.png", f"{'x' * 90}/{'y' * 90}.png"]
KINDS = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard link", tarfile.FIFOTYPE: "other"}


def packed(names=NAMES, form=tarfile.PAX_FORMAT, **settings):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **settings) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(CONTENT)
            archive.addfile(info, io.BytesIO(CONTENT))
    return buffer.getvalue()


def listed(content, tmp_path, start=0, size=None):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with path.open("rb") as handle:
        return list(tar_members(handle.fileno(), start, size))


def refused(content, tmp_path):
    with pytest.raises(tarfile.ReadError) as caught:
        listed(content, tmp_path)
    return str(caught.value)


def as_tarfile_lists(path):
    """(name, kind, size, place, target) of each member, from the standard library."""
    with tarfile.open(path) as archive:
        for info in archive:
            kind = "file" if info.isreg() else KINDS[info.type]
            size = info.size if info.isreg() else 0
            yield info.name.rstrip("/"), kind, size, info.offset_data if size else None, info.linkname


def ours(path):
    with path.open("rb") as handle:
        for name, kind, place, size, target in tar_members(handle.fileno()):
            is_file = kind == "file"
            yield name.rstrip("/"), kind, size * is_file, place if is_file and size else None, target


@pytest.fixture
def tree(tmp_path):
    """A folder with everything that a tar can hold, long names and names that are no UTF-8 among it."""
    root = tmp_path / "in"
    for name in ["a", "ü" * 100, f"{'x' * 90}/{'y' * 90}/{'z' * 90}", "latin\udce9", "empty"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"" if name == "empty" else CONTENT)
    (root / "soft").symlink_to("ü" * 100)
    (root / "hard").hardlink_to(root / "a")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_tar_writes_is_listed_as_the_standard_library_does(tmp_path, tree, form):
    path = tmp_path / "x.tar"
    subprocess.run(["tar", f"--format={form}", "-cf", path, "-C", tree, "."], capture_output=True, check=False)
    found = list(ours(path))
    assert found == list(as_tarfile_lists(path)) and len(found) >= 6


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_standard_library_writes_is_listed(tmp_path, form):
    found = listed(packed(form=form), tmp_path)
    assert [member.name for member in found] == NAMES and {member.size for member in found} == {len(CONTENT)}


def test_a_tar_inside_of_a_file_is_listed_with_places_in_the_file(tmp_path):
    inner = packed()
    found = listed(bytes(700) + inner + b"more", tmp_path, 700, len(inner))
    assert [member.place - 700 for member in found] == [member.place for member in listed(inner, tmp_path)]


@pytest.mark.parametrize("form", FORMATS)
def test_any_changed_byte_of_any_header_is_refused(tmp_path, form):
    content = packed(form=form)
    for member in listed(content, tmp_path):
        for byte in range(0, BLOCK, 7):
            changed = bytearray(content)
            changed[member.place - BLOCK + byte] ^= 1
            assert "damaged header" in refused(changed, tmp_path)


def test_the_place_and_the_member_before_are_named(tmp_path):
    content = bytearray(packed())
    place = listed(content, tmp_path)[1].place - BLOCK
    content[place + 150] ^= 1
    assert refused(content, tmp_path) == (
        f"a damaged header, or no tar at all; at byte {place:,}, after the member a.png"
    )
    content[150] ^= 1
    assert refused(content, tmp_path).endswith("at byte 0, before the first member")


@pytest.mark.parametrize("form", FORMATS)
def test_a_tar_that_is_cut_off_anywhere_before_its_last_zeros_is_refused(tmp_path, form):
    content = packed(form=form)
    end = len(content.rstrip(b"\0"))
    whole = -(-end // BLOCK) * BLOCK
    for size in [*range(0, whole + BLOCK, 61), whole]:
        assert "cut off" in refused(content[:size], tmp_path) or size < end
    assert len(listed(content[: whole + BLOCK], tmp_path)) == 3  # one block of zeros is an end


def test_what_follows_the_end_is_refused(tmp_path):
    content = packed()
    for more in (packed(["z.png"]), b"garbage", bytes(5000) + b"x"):
        assert "other bytes after it" in refused(content + more, tmp_path)
    assert len(listed(content + bytes(99_999), tmp_path)) == 3


def test_a_file_that_was_laid_out_in_full_and_filled_in_part_is_refused(tmp_path):
    assert "not downloaded in full" in refused(packed()[: 4 * BLOCK] + bytes(2**21), tmp_path)


def test_an_empty_tar_has_no_members_and_an_empty_file_is_none(tmp_path):
    assert listed(packed([]), tmp_path) == []
    assert "cut off" in refused(b"", tmp_path)


def with_field(content, place, field):
    """The tar with another field in its first header, and the checksum that goes with it."""
    header = bytearray(content[:BLOCK])
    header[place : place + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[BLOCK:]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (b"\x80" + b"\xff" * 11, "is cut off"),
        (b"\xff" * 11 + b"\0", "a size below zero"),
        (b"\xff" * 10 + b"\xfe\0", "a size below zero"),
        (b"77777777777\0", "is cut off"),
        (b"00000000-10\0", "a damaged header"),
        (b"0000000009 \0", "a damaged header"),
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"Z"])
def test_impossible_sizes_are_refused(tmp_path, kind, size, reason):
    message = refused(with_field(with_field(packed(), 124, size), 156, kind), tmp_path)
    assert reason in message or "PAX records of" in message


def test_numbers_in_binary_are_read(tmp_path):
    size = b"\x80" + len(CONTENT).to_bytes(11, "big")
    assert len(listed(with_field(packed(), 124, size), tmp_path)) == 3


def test_a_checksum_of_signed_bytes_is_right_too(tmp_path):
    header = bytearray(packed(["\u00e9.png"], tarfile.GNU_FORMAT))
    signed = sum(struct.unpack("512b", header[:148] + b" " * 8 + header[156:BLOCK]))
    header[148:156] = b"%06o\0 " % signed
    assert listed(header, tmp_path)[0].name == "é.png"


RECORDS = {
    "sparse, a map": {"GNU.sparse.map": "0,abc", "GNU.sparse.size": "9"},
    "sparse, a size": {"GNU.sparse.size": "abc"},
    "sparse, version 1": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
    "a size of words": {"size": "abc"},
    "a size below zero": {"size": "-512"},
    "a size that is too large": {"size": "9" * 18},
    "a size of 5,000 digits": {"size": "9" * 5000},
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_odd_pax_records_are_refused(tmp_path, records):
    assert "the member a.png" in refused(packed(["a.png"], pax_headers=records), tmp_path)
    info, buffer = tarfile.TarInfo("a.png"), io.BytesIO()
    info.pax_headers = records
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info)
    assert "the member a.png" in refused(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize("records", [b"0 a=b\n", b"99 a=b\n", b"6 a=b", b"hello\n", b"9" * 5000 + b" a=b\n", b"4 a=\n"])
def test_damaged_pax_records_are_refused(tmp_path, records):
    header = with_field(with_field(bytes(BLOCK), 124, b"%011o\0" % len(records)), 156, b"x")
    content = header + records + bytes(-len(records) % BLOCK) + packed()
    assert "PAX records" in refused(content, tmp_path)


def test_a_sparse_file_of_gnus_own_form_is_refused(tmp_path):
    assert "is stored with holes" in refused(with_field(packed(), 156, b"S"), tmp_path)


def test_long_names_without_end_are_no_recursion(tmp_path):
    name = with_field(with_field(bytes(BLOCK), 124, b"%011o\0" % 2), 156, b"L") + b"ab".ljust(BLOCK, b"\0")
    assert listed(name * 3000 + packed(), tmp_path)[0].name == "ab"
    assert "without their member" in refused(name + bytes(1024), tmp_path)


def test_one_record_for_all_members(tmp_path):
    found = listed(packed(pax_headers={"comment": "x", "linkpath": "y"}), tmp_path)
    assert [member.name for member in found] == NAMES


def test_every_member_lies_behind_the_one_before(tmp_path):
    places = [member.place for member in listed(packed(["a"] * 50), tmp_path)]
    assert all(one < other for one, other in itertools.pairwise(places))
