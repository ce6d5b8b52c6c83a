"""What a killed process, a full disk and damaged bytes leave: nothing, one line, and never another content."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scm.base import files, weights
from scm.base.files import (
    append_line,
    disk_fault,
    read_sealed,
    remove_leftovers,
    replacing_folder,
    room_for,
    sha256,
    write_csv,
    write_json,
    write_sealed,
    write_text,
)
from scm.data.shards.shards import write_array
from scm.errors import UserError
from scm.generation.grids import save_grid
from tests.support.models import small_disk

KILLED = """
import os, signal, sys
from pathlib import Path
from scm.base.files import replacing, replacing_folder
with replacing(Path(sys.argv[1]) / "file") as one, replacing_folder(Path(sys.argv[1]) / "folder") as other:
    one.with_suffix(".new").write_text("half")
    one.with_suffix(".new").replace(one)  # as safetensors does: the file is another one, without a lock
    (other / "part").write_text("half")
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


def test_the_next_write_removes_what_killed_processes_left_and_nothing_of_living_ones(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    for _ in range(2):
        assert subprocess.run([*command, "SIGKILL"], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 2  # the second process has removed what the first one left
    with subprocess.Popen([*command, "SIGSTOP"]) as living:
        os.waitid(os.P_PID, living.pid, os.WSTOPPED | os.WNOWAIT)
        write_json(tmp_path / "another", {})
        left = sorted(path.name.partition(".scm-")[0] for path in tmp_path.iterdir())
        living.send_signal(signal.SIGCONT)
    assert left == [".file", ".folder", "another"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "file", "folder"]


def test_another_machines_leftover_counts_as_one_after_a_day(tmp_path):
    """Its lock may not be seen here."""
    new, old, own, foreign = (
        tmp_path / f".{name}-0123abcd.tmp"
        for name in ("new.scm-elsewhere", "old.scm-elsewhere", f"own.scm-{files._HOST}", "of another program")
    )
    for path in (new, old, own, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, time.time() - files.DAY - 1))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, foreign.name}


def test_without_locks_a_leftover_counts_as_one_after_a_day(tmp_path, monkeypatch):
    def without(handle: int, how: int) -> None:
        raise OSError(errno.EBADF, "no locks on folders")

    monkeypatch.setattr(fcntl, "flock", without)
    new, old = (tmp_path / f".{name}.scm-{files._HOST}-0123abcd.tmp" for name in ("new", "old"))
    for path in (new, old):
        path.mkdir()
    os.utime(old, (0, time.time() - files.DAY - 1))
    write_text(tmp_path / "a", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "a"}


def test_a_temporary_that_is_taken_for_a_leftover_before_its_lock_is_made_again(tmp_path, monkeypatch):
    lock, taken = fcntl.flock, list[Path]()

    def late(handle: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_text(tmp_path / "a", "whole")
    assert len(taken) == 1 and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_sealed_json_is_read_back_as_it_was_written_or_not_at_all(tmp_path):
    path, value = tmp_path / "a.json", {"labels": [1, 2, 30], "mean": 0.125, "name": "été"}
    assert read_sealed(path) is None
    write_sealed(path, value)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert read_sealed(path) in (None, value)  # white space may have become other white space
        path.write_bytes(content[:place])
        assert read_sealed(path) in (None, value)
    path.write_bytes(content)
    assert read_sealed(path) == value


def test_sealed_weights_are_read_back_as_they_were_written_or_not_at_all(tmp_path):
    """Every byte of the file is flipped, and the file is cut at every place."""
    path, tensors = tmp_path / "w", {"a": torch.arange(5).to(torch.bfloat16), "step": torch.tensor(7.0)}
    header = {"images": 7, "snapshots": {"x": "y"}}
    assert weights.load_sealed(path) is None
    weights.save_sealed(path, tensors, header)
    content, found = path.read_bytes(), 0

    def as_written() -> bool:
        read = weights.load_sealed(path)
        return (
            read is not None and read[1] == header and all(torch.equal(read[0][key], tensors[key]) for key in tensors)
        )

    assert as_written()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert weights.load_sealed(path) is None or as_written(), place
        found += weights.load_sealed(path) is None
        path.write_bytes(content[:place])
        assert weights.load_sealed(path) is None
    assert found > len(content) - 8  # the rest is padding


FULL = r"cannot be written \(No space left on device\): free some space \(.+ free\) and run the same command again$"
WRITERS = {
    "text": lambda path: write_text(path, "x" * 10**6),
    "csv": lambda path: write_csv(path, [{"a": "x" * 10**6}]),
    "weights": lambda path: weights.save(path, {"a": torch.zeros(10**6)}, {}),
    "grid": lambda path: save_grid(path, torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8), 2, 1),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file_and_the_room(writer):
    with small_disk("48k") as disk:
        (disk / "f").write_text("old")
        with pytest.raises(UserError, match=rf"^{disk}/f {FULL}"):
            WRITERS[writer](disk / "f")
        assert [path.name for path in disk.iterdir()] == ["f"] and (disk / "f").read_text() == "old"


def test_the_room_is_told_in_bytes():
    with small_disk("64k") as disk:
        with pytest.raises(UserError, match=r"\(4,000,000 bytes are needed, 65,536 are free\)"):
            weights.save(disk / "f", {"a": torch.zeros(10**6)}, {})
        with pytest.raises(UserError, match=r"\(more than the 65,536 bytes that are free\)"):
            write_text(disk / "f", "x" * 10**6)


PARTS = {
    "array": lambda folder, large: write_array(folder / "labels.npy", torch.zeros(10**5).numpy()),
    "weights": lambda folder, large: weights.save(folder / "part", {"a": torch.zeros(10**5)}, {}),
    "copies": lambda folder, large: shutil.copytree(large, folder / "copy"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_that_does_not_fit_leaves_the_old_one(part, tmp_path):
    with small_disk("64k") as disk:
        (tmp_path / "large").write_bytes(bytes(10**5))
        (disk / "f").mkdir()
        (disk / "f/old").touch()
        with pytest.raises(UserError, match=rf"^{disk}/f(/part)? {FULL}"), replacing_folder(disk / "f") as folder:
            PARTS[part](folder, tmp_path)
        assert sorted(path.name for path in disk.rglob("*")) == ["f", "old"]


def test_a_line_that_does_not_fit_is_not_half_written():
    with small_disk("8k") as disk:
        path = disk / "lines"
        append_line(path, "first")
        with pytest.raises(UserError, match=rf"^{path} {FULL}"):
            append_line(path, "x" * 10_000)
        append_line(path, "second")
        assert path.read_text() == "first\nsecond\n"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "give this user the right to read and write there"),
        (errno.EPERM, "give this user the right to read and write there"),
        (errno.EROFS, "mount it writable"),
        (errno.EIO, "check the disk or the mount"),
    ],
)
def test_a_disk_that_refuses_is_one_line(number, remedy):
    line = f"a/b cannot be used ({os.strerror(number)}): {remedy} and run the same command again"
    assert disk_fault(OSError(number, os.strerror(number), "a/b")) == line
    for name in ("a/.b.scm-here-0123abcd.tmp", "a/.b.scm-here-0123abcd.tmp/b"):
        assert disk_fault(OSError(number, os.strerror(number), name)) == line


def test_a_disk_that_fails_while_it_reads_or_writes_is_told_with_the_file(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.touch()
    for target in ("os.fsync", "hashlib.file_digest", "json.loads"):
        monkeypatch.setattr(target, failing)
    for work in (lambda: append_line(path, "x"), lambda: sha256(path), lambda: read_sealed(path)):
        with pytest.raises(OSError, match="Input/output") as caught:
            work()
        line = disk_fault(caught.value)
        assert line is not None and line.startswith(f"{path} cannot be used (Input/output error): check the disk")


def test_other_errors_of_a_disk_stay_what_they_are():
    with pytest.raises(OSError, match="Input/output"), room_for(Path("a")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert disk_fault(OSError(errno.EMFILE, "too many", "a")) is None
    assert disk_fault(PermissionError(errno.EACCES, "a socket's, without a file")) is None
    assert disk_fault(OSError(errno.EDQUOT, "quota", "a")) == (
        f"a cannot be written ({os.strerror(errno.EDQUOT)}): free some space and run the same command again"
    )
