"""The frame of a stage: a full disk that nothing else has met, the names that it prints, and what a kill has left."""

import errno
import os
from pathlib import Path

import pytest

from scm import cli
from scm.params.project import Project
from scm.pipeline import stage
from scm.results.fingerprint import Inputs
from tests.support.projects import make_project


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x")


LINE = "error: data/x cannot be written (No space left on device): free some space and run the same command again\n"


def test_a_full_disk_anywhere_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(Project, "open", full)
    monkeypatch.setattr("sys.argv", ["stages.prepare"])
    with pytest.raises(SystemExit) as ended:
        stage.main(lambda stage: None, "prepare")
    assert ended.value.code == 1 and capsys.readouterr().err == LINE
    assert cli.main(["plan"]) == 1 and capsys.readouterr().err == f"scm: {LINE}"


def test_another_error_of_the_disk_keeps_its_traceback(monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Project, "open", broken)
    monkeypatch.setattr("sys.argv", ["stages.prepare"])
    with pytest.raises(OSError, match="Input/output"):
        stage.main(lambda stage: None, "prepare")
    with pytest.raises(OSError, match="Input/output"):
        cli.main(["plan"])


@pytest.fixture
def running(tmp_path: Path) -> stage.Stage:
    make_project(tmp_path)
    return stage.Stage("prepare", None, Project.open(tmp_path), Inputs({}, {}, "0" * 64), tmp_path / ".work/prepare/00")


def test_names_are_printed_without_control_characters(running, capsys):
    running.progress("the class \x1b[31mred\n\u202e")
    assert capsys.readouterr().out == "[prepare] the class \\x1b[31mred\\n\\u202e\n"


def test_a_run_removes_work_folders_that_a_killed_one_was_removing(running):
    left, other = (running.work.with_name(name) for name in (f"11{stage.FINISHED}", "22"))
    for folder in (left, other):
        (folder / "part").mkdir(parents=True)
    with stage._locked(running):
        assert not left.exists() and other.exists() and running.work.exists()


def test_a_trainings_first_line_names_its_page(running, capsys):
    with stage._watched(running):
        assert capsys.readouterr().out == f"[prepare] progress, with samples: {running.root}/results/progress.html\n"
        assert running.watch is not None and (running.root / "results/progress.html").exists()
