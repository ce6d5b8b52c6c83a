"""Images to shards: the same bytes for any number of threads and processes and after any interruption."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from scm.base.files import read_sealed, write_sealed
from scm.data.preparation import ingest as ingest_module
from scm.data.preparation.ingest import Plan, Workers, assemble
from scm.data.reading.source import Wanted, open_source
from scm.data.shards.shards import iterate
from scm.errors import Interrupted, UserError
from tests.support.ingesting import BAD, COUNT, PLAN, pixels, run, source
from tests.support.models import small_disk
from tests.support.pictures import make_tar, picture


def contents(folder):
    """Names and bytes of all files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one thread of one process makes without an interruption."""
    folder = tmp_path_factory.mktemp("expected")
    run(folder / "work", Workers(1))
    assemble(source(), PLAN, folder / "work", folder / "out")
    return contents(folder / "out")


def made(folder):
    assemble(source(), PLAN, folder / "work", folder / "out")
    return contents(folder / "out")


def test_every_usable_image_is_there_in_order(tmp_path):
    run(tmp_path / "work")
    index, tally = assemble(source(), PLAN, tmp_path / "work", tmp_path / "out")
    usable = [number for number in range(COUNT) if number not in BAD]
    samples = list(iterate(tmp_path / "out"))
    assert [(key, label) for key, _, label in samples] == [(f"{number:08d}", number % 2) for number in usable]
    assert all(np.array_equal(pixels(number), image) for number, (_, image, _) in zip(usable, samples, strict=True))
    assert index["class_counts"] == [9, 9] and index["count"] == 18 and dict(tally.short_sides) == {8: 18}
    assert [shard["count"] for shard in index["shards"]] == [3, 4, 4, 4, 3]
    assert [shard["file"] for shard in index["shards"]] == [f"{n:06d}.tar" for n in (0, 1, 3, 4, 5)]
    reason = "broken image (image file is truncated)"
    assert list(tally.skipped) == [{"file": f"thing {number}", "reason": reason} for number in sorted(BAD)]


@pytest.mark.parametrize("threads", [2, 4, 16])
def test_threads_do_not_show(tmp_path, expected, threads):
    run(tmp_path / "work", Workers(threads))
    assert made(tmp_path) == expected


def test_threads_read_at_the_same_time(tmp_path):
    """Without several threads at work at once the barrier would never open."""
    barrier = threading.Barrier(4, timeout=20)
    run(tmp_path / "work", Workers(4), source(lambda number: barrier.wait() if number < 4 else None))


@pytest.mark.parametrize("world", [2, 3, 9])
def test_processes_do_not_show(tmp_path, expected, world):
    for rank in reversed(range(world)):  # the first one waits for the others
        run(tmp_path / "work", Workers(2, rank, world))
    assert made(tmp_path) == expected


def test_the_first_process_waits_for_the_others_and_each_makes_its_own(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(ingest_module, "POLL_SECONDS", 0.01)
    read, lines, done = {0: set(), 1: set()}, [], threading.Event()

    def second():
        done.wait(10)
        run(tmp_path / "work", Workers(1, 1, 2), source(read[1].add))

    def said(text):
        lines.append(text)
        done.set()

    other = threading.Thread(target=second, daemon=True)
    other.start()
    run(tmp_path / "work", Workers(1, 0, 2), source(read[0].add), said)
    assert lines == ["waiting for 3 shards of other processes"] and made(tmp_path) == expected
    other.join(10)
    assert read[0] == set(range(COUNT)) - read[1] and read[1] == {*range(4, 8), *range(12, 16), *range(20, 23)}


def test_a_shard_that_is_damaged_when_its_process_has_finished_is_not_waited_for(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(ingest_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ingest_module, "PATIENCE", 0.05)
    run(tmp_path / "work", Workers(1, 1, 2))
    shard = tmp_path / "work/shards/000003.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"/000003.json was damaged while the processes ran, and is removed"):
        run(tmp_path / "work", Workers(1, 0, 2))
    for rank in (1, 0):
        run(tmp_path / "work", Workers(1, rank, 2))
    assert made(tmp_path) == expected


@pytest.mark.parametrize("images", [0, 1, 3, 4, 5, 13, 22])
def test_an_interruption_anywhere_does_not_show(tmp_path, expected, images):
    """It is asked to stop after so many images; then it goes on, and reads no image of a finished shard again."""
    asked = iter(range(COUNT))
    with pytest.raises(Interrupted, match=f"after {images} images"):
        run(tmp_path / "work", stopping=lambda: next(asked) == images)
    assert len(list((tmp_path / "work/shards").glob("*.json"))) == images // 4
    again = set()
    run(tmp_path / "work", images=source(again.add))
    assert again == set(range(images // 4 * 4, COUNT)) and made(tmp_path) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.support.ingesting import run, source
def die(number):
    if number == 14:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), images=source(die))
"""


def test_a_killed_process_does_not_show(tmp_path, expected):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "work")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
    assert done.returncode == -9
    names = {path.name for path in (tmp_path / "work/shards").iterdir()}
    assert "000000.json" in names and "000003.json" not in names
    run(tmp_path / "work")
    assert made(tmp_path) == expected


def test_a_shard_without_its_record_or_with_other_bytes_is_made_again(tmp_path, expected):
    run(tmp_path / "work")
    shards = tmp_path / "work/shards"
    (shards / "000000.json").unlink()
    (shards / "000001.tar").unlink()
    content = bytearray((shards / "000004.tar").read_bytes())
    content[600] ^= 1
    (shards / "000004.tar").write_bytes(content)
    again, lines = set(), []
    run(tmp_path / "work", images=source(again.add), said=lines.append)
    assert again == {*range(8), *range(16, 20)} and lines == ["3 of 6 shards were made before"]
    assert made(tmp_path) == expected


def test_a_record_that_is_damaged_costs_its_shard_alone(tmp_path, expected):
    run(tmp_path / "work")
    (tmp_path / "work/shards/000003.json").write_text("{")
    again = set()
    run(tmp_path / "work", images=source(again.add))
    assert again == {*range(12, 16)} and made(tmp_path) == expected


def test_a_record_that_lost_an_image_is_refused(tmp_path):
    run(tmp_path / "work")
    record = tmp_path / "work/shards/000002.json"
    content = read_sealed(record)
    write_sealed(record, content | {"skipped": content["skipped"][1:]})
    with pytest.raises(UserError, match=r"000002\.json does not say what became of each image: delete it, and run"):
        made(tmp_path)


def test_a_record_with_another_label_is_not_believed(tmp_path, expected):
    """It would be JSON as before, and the labels of all images are made of these records."""
    run(tmp_path / "work")
    record = tmp_path / "work/shards/000003.json"
    text = record.read_text()
    assert re.search(r'"labels": \[\s+\d', text)
    record.write_text(re.sub(r'("labels": \[\s+)\d', r"\g<1>7", text))
    again = set()
    run(tmp_path / "work", images=source(again.add))
    assert again == {*range(12, 16)} and made(tmp_path) == expected


def test_the_first_bad_image_of_the_listing_is_named_whatever_thread_reads_it(tmp_path):
    late = threading.Event()

    def before(number):
        if number == 2:
            late.wait(5)
        if number == 8:
            late.set()

    with pytest.raises(UserError, match="things: thing 2: broken image") as caught:
        run(tmp_path / "work", Workers(4), source(before), plan=Plan(8, 3, "error", 4))
    assert str(caught.value).endswith("repair or remove it, or set data.on_bad_image: skip")


def full_after(monkeypatch, bytes_written):
    """A disk that takes so many bytes of shards."""
    room, write = [bytes_written], ingest_module.write_tar

    def limited(samples, path, suffix):
        entry = write(samples, path, suffix)
        room[0] -= entry["bytes"]
        if room[0] < 0:
            path.write_bytes(path.read_bytes()[: entry["bytes"] // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return entry

    monkeypatch.setattr(ingest_module, "write_tar", limited)


@pytest.mark.parametrize("room", [0, 1, 45_000])
def test_a_full_disk_is_named_and_nothing_half_written_counts(tmp_path, expected, room):
    work = tmp_path / "work"
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, room)
        with pytest.raises(
            UserError,
            match=rf"^{work}/shards/00000\d.tar cannot be written \(No space left on device\): free some space "
            r"\(more than the [\d,]+ bytes that are free\) and run the same command again$",
        ):
            run(work)
    left = {path.name for path in (work / "shards").iterdir()}
    assert {Path(name).stem for name in left if name.endswith("tar")} == {
        Path(name).stem for name in left if name.endswith("json")
    }
    run(work)
    assert made(tmp_path) == expected


def test_another_failure_of_the_disk_is_no_full_disk(tmp_path, monkeypatch):
    def broken(samples, path, suffix):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ingest_module, "write_tar", broken)
    with pytest.raises(OSError, match="Input/output error"):
        run(tmp_path / "work")


def test_a_full_disk_when_the_shards_are_put_together_leaves_the_old_ones(tmp_path, expected, monkeypatch):
    run(tmp_path / "work")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")

    def full(path, array):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "write_array", full)
        with pytest.raises(UserError, match="out cannot be written"):
            assemble(source(), PLAN, tmp_path / "work", tmp_path / "out")
    assert contents(tmp_path / "out") == {"old": b"old"} and len(list(tmp_path.iterdir())) == 2
    assert made(tmp_path) == expected


@pytest.fixture
def disk():
    """A file system with room for about two shards."""
    with small_disk("48k") as folder:
        yield folder


def test_a_disk_that_is_really_full(tmp_path, disk, expected):
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): free some space"):
        run(disk / "work")
    records = list((disk / "work/shards").glob("*.json"))
    assert 0 < len(records) < 6
    shutil.copytree(disk / "work", tmp_path / "work")
    again = set()
    run(tmp_path / "work", images=source(again.add))
    assert min(again) == 4 * len(records) and made(tmp_path) == expected


def test_no_room_to_unpack_a_gzip_is_named(tmp_path, disk, monkeypatch):
    path = make_tar(tmp_path / "a.tar.gz", {f"cat/{seed}.png": picture(seed, (100, 60)) for seed in range(4)})
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with pytest.raises(UserError) as caught:
        open_source(Wanted("folder", path, True, 10_000, "error"))
    expected = f"{disk} cannot be written (No space left on device): set TMPDIR to a larger disk, or run gunzip on"
    assert str(caught.value) == f"{expected} {path}"


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """However far the threads could read ahead of a slow disk, only so many images are ever waiting."""
    lock, waiting, most = threading.Lock(), [0], [0]

    def before(number):
        with lock:
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])

    def stopping():  # is asked once for each image that leaves
        with lock:
            waiting[0] -= 1
        return False

    run(tmp_path / "work", Workers(2), source(before), stopping=stopping)
    assert waiting[0] == 0 and most[0] <= 2 * ingest_module.AHEAD + 1
