"""A resumed run verifies what it stands on; the advice for what is damaged leads to the right result."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.files import sha256, write_sealed
from scm.ema.reconstruct import INDEX, verify
from scm.errors import Interrupted, UserError
from scm.training import room
from scm.training.checkpoint import FILE
from scm.training.export import export
from scm.training.record import METRICS, SNAPSHOTS, Record
from tests.support.loops import ALONE, equal, result, trainer
from tests.support.models import small_disk
from tests.support.processes import together

STOP = 5
"""Steps before the interruption."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "work"
    trainer(folder).run()
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "work"
    stops = iter([*[False] * (STOP - 1), True])
    with pytest.raises(Interrupted):
        trainer(folder, stopping=lambda: next(stops)).run()
    assert len(list((folder / SNAPSHOTS).iterdir())) == 4
    return folder


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def snapshot(work: Path) -> Path:
    return min((work / SNAPSHOTS).iterdir())


DAMAGE = {
    "lost snapshot": lambda work: snapshot(work).unlink(),
    "cut snapshot": lambda work: os.truncate(snapshot(work), 1000),
    "all snapshots lost": lambda work: shutil.rmtree(work / SNAPSHOTS),
    "another run's snapshot": lambda work: shutil.copyfile(max((work / SNAPSHOTS).iterdir()), snapshot(work)),
    "lost metrics": lambda work: (work / METRICS).unlink(),
    "cut metrics": lambda work: os.truncate(work / METRICS, 50),
    "empty checkpoint": lambda work: os.truncate(work / FILE, 0),
    "cut checkpoint": lambda work: os.truncate(work / FILE, 5000),
    "another file": lambda work: weights.save(work / FILE, {}, {"images": 80}),
    **{f"flipped {k}/20 of snapshot": lambda work, k=k: _flip(snapshot(work), k) for k in range(20)},
    **{f"flipped {k}/20 of metrics": lambda work, k=k: _flip(work / METRICS, k) for k in range(20)},
    **{f"flipped {k}/20 of checkpoint": lambda work, k=k: _flip(work / FILE, k) for k in range(20)},
}


def _flip(file: Path, part: int) -> None:
    flip(file, (file.stat().st_size - 1) * part // 19)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_a_run_stands_on_is_verified(stopped, tmp_path, damage):
    work = tmp_path / "work"
    shutil.copytree(stopped, work)
    DAMAGE[damage](work)
    advice = f"delete {work} and run the same command again, which trains from the beginning$"
    with pytest.raises(UserError, match=rf"^{work}/\S+ is (damaged|missing): {advice}"):
        trainer(work)._resume()


def test_the_advice_leads_to_the_right_result_and_so_does_an_undamaged_folder(whole, stopped, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(stopped, work)
    trainer(work).run()
    assert equal(result(whole), result(work))
    flip(snapshot(work), 2000)
    with pytest.raises(UserError, match=f"delete {work} and"):
        trainer(work).run()
    shutil.rmtree(work)
    trainer(work).run()
    assert equal(result(whole), result(work))


def test_a_lost_checkpoint_begins_the_training_again(whole, stopped, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(stopped, work)
    (work / FILE).unlink()
    flip(snapshot(work), 2000)
    trainer(work).run()
    assert equal(result(whole), result(work))


def test_exported_snapshots_are_verified_and_carry_their_hashes(whole, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(whole, work)
    finished = trainer(work)
    finished.run()
    export(finished.record, tmp_path, "teacher", ALONE)
    folder = tmp_path / "models/teacher/snapshots"
    assert sorted(path.name for path in folder.iterdir()) == [*sorted(finished.record.snapshots), INDEX]
    verify(folder)
    snapshot(work).unlink()
    with pytest.raises(UserError, match=f"is missing: delete {work} and"):
        export(finished.record, tmp_path, "teacher", ALONE)
    verify(folder)


def _export_what_is_lost(ranks: Ranks, folder: Path) -> None:
    record = Record(folder / "work")
    record.snapshots = {"lost.safetensors": "0"} if ranks.rank == 0 else {}
    try:
        export(record, folder, "teacher", ranks)
    except UserError as error:
        (folder / str(ranks.rank)).write_text(str(error))


def test_all_processes_end_when_one_cannot_export(tmp_path):
    together(2, _export_what_is_lost, tmp_path)
    assert "lost.safetensors is missing: delete " in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text() == "rank 1 ends: rank 0 failed, as it explains"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(min(folder.iterdir()), 2000), "safetensors is not what was written"),
        (lambda folder: min(folder.iterdir()).unlink(), "safetensors is missing"),
        (lambda folder: (folder / INDEX).unlink(), "index.json is missing"),
        (lambda folder: flip(folder / INDEX, 30), "index.json is damaged"),
        (lambda folder: write_sealed(folder / INDEX, {}), "index.json lacks snapshots"),
        (
            lambda folder: shutil.copy(min(folder.glob("0*")), folder / "of-another.safetensors"),
            "is none of this training's",
        ),
    ],
)
def test_averages_are_not_made_of_damaged_snapshots(whole, tmp_path, damage, message):
    record = Record(whole)
    record.snapshots = {file.name: sha256(file) for file in (whole / SNAPSHOTS).iterdir()}
    (tmp_path / "results").mkdir()
    export(record, tmp_path, "scd", ALONE)
    folder = tmp_path / "models/scd/snapshots"
    copies = tmp_path / "copies"
    shutil.copytree(folder, copies)
    damage(copies)
    with pytest.raises(UserError, match=rf"{message}.*: run `dvc checkout`, or delete the folder and run `scm run`"):
        verify(copies)


def test_a_training_on_a_full_disk_ends_in_a_line_and_goes_on_when_there_is_room(whole, tmp_path):
    with small_disk("1m") as disk:
        said = list[str]()
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): free some space \([\d,]+"):
            trainer(disk / "work", say=said.append).run()
        assert said[0].startswith("warning: this training writes about ")
        assert not list(disk.rglob("*.tmp"))
        shutil.copytree(disk / "work", tmp_path / "work")
    trainer(tmp_path / "work").run()
    assert equal(result(whole), result(tmp_path / "work"))


def test_a_training_that_fits_says_nothing(tmp_path, monkeypatch):
    free = namedtuple("Usage", "free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: free(5000))
    assert room.shortage(tmp_path / "not/yet", 5000, "it writes") is None
    expected = (
        f"warning: it writes about 5,001 bytes into {tmp_path}/not/yet, and its disk has 5,000 free: free some space"
    )
    assert room.shortage(tmp_path / "not/yet", 5001, "it writes") == expected
