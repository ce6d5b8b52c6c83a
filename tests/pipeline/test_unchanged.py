"""What `scm run` knows without DVC: a record of a project where all is up to date, and every way to make it void."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.pipeline import repro as repro_module
from scm.pipeline import unchanged
from scm.pipeline.repro import main as repro
from scm.pipeline.unchanged import RECORD, remember, unchanged_stages

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")  # DVC 3.67's call

STAGES = """
stages:
  second:
    cmd: cp made/a.txt b.txt
    deps: [made]
    outs: [b.txt]
  first:
    cmd: mkdir -p made && cat code/a.py > made/a.txt
    params: [seed]
    deps: [code, data]
    outs: [made]
"""
FILES = {"code/a.py": "a = 1\n", "data/1.png": "1", "params.yaml": "seed: 0\n", "dvc.yaml": STAGES}
CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
"""


@pytest.fixture(autouse=True)
def same_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def dvc(folder: Path, *arguments: str) -> None:
    program = Path(sys.executable).parent / "dvc"
    subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    """A project of two stages after `dvc repro`."""
    root = tmp_path_factory.mktemp("complete")
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / ".work").mkdir()
    dvc(root, "init", "--no-scm", "--quiet")
    (root / ".dvc" / "config").write_text(CONFIG)
    dvc(root, "repro")
    return root


@pytest.fixture
def project(complete, tmp_path) -> Path:
    """A copy, of which DVC has found that all is up to date."""
    root = shutil.copytree(complete, tmp_path / "project")
    remember(root)
    return root


def edit_in_disguise(path: Path) -> None:
    """Another content of the same length, with the old time."""
    before = path.stat()
    path.write_text(path.read_text()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(root: Path, content: str) -> Path:
    """The file in DVC's cache with this content."""
    files = (root / ".dvc" / "cache" / "files").rglob("*")
    return next(file for file in files if file.is_file() and file.read_text() == content)


def test_the_stages_are_known_in_the_order_in_which_they_run(project):
    assert unchanged_stages(project) == ["first", "second"]


CHANGES = {
    "a parameter": lambda root: (root / "params.yaml").write_text("seed: 1\n"),
    "a stage": lambda root: (root / "dvc.yaml").write_text(STAGES.replace("cp made", "cp -f made")),
    "the lock file": lambda root: (root / "dvc.lock").unlink(),
    "code": lambda root: edit_in_disguise(root / "code" / "a.py"),
    "another file of code": lambda root: (root / "code" / "b.py").touch(),
    "an image more": lambda root: (root / "data" / "2.png").touch(),
    "an image less": lambda root: (root / "data" / "1.png").unlink(),
    "a hidden image": lambda root: (root / "data" / ".2.png").touch(),
    "an image's name": lambda root: (root / "data" / "1.png").rename(root / "data" / "0.png"),
    "a link to nothing": lambda root: (root / "data" / "2.png").symlink_to("nowhere"),
    "an output": lambda root: edit_in_disguise(root / "made" / "a.txt"),
    "an output that is gone": lambda root: (root / "b.txt").unlink(),
    "a folder linked to itself": lambda root: (root / "data" / "2.png").symlink_to("2.png"),
    "a cached file": lambda root: cached(root, "a = 1\n").unlink(),
    "the cache": lambda root: shutil.rmtree(root / ".dvc" / "cache"),
    "images that a .dvc file knows": lambda root: (root / "data.dvc").write_text("outs:\n- path: data\n"),
    "what DVC leaves out of a folder": lambda root: (root / "data" / ".dvcignore").write_text("1.png\n"),
    "another pipeline": lambda root: (root / "data" / "dvc.yaml").touch(),
    "what DVC leaves out": lambda root: (root / ".dvcignore").write_text("data/1.png\n"),
    "DVC's settings": lambda root: (root / ".dvc" / "config.local").write_text("[cache]\n    type = copy\n"),
    "the record": lambda root: (root / RECORD).write_text((root / RECORD).read_text().replace("first", "firsT")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_after_any_change_dvc_has_to_look(project, change):
    change(project)
    assert unchanged_stages(project) is None


def test_caches_of_python_are_no_change(project):
    (project / "code" / "__pycache__").mkdir()
    (project / "code" / "__pycache__" / "a.cpython-311.pyc").touch()
    assert unchanged_stages(project) is not None


def test_nothing_is_remembered_of_a_project_in_which_a_stage_would_run(project):
    (project / "params.yaml").write_text("seed: 1\n")
    remember(project)
    assert not (project / RECORD).exists()


def test_a_linked_folder_among_the_images_is_no_change_for_dvc_either(project):
    (project / "data" / "latest").symlink_to(".")
    assert unchanged_stages(project) is not None


def test_nothing_is_remembered_of_a_pipeline_with_values_from_other_files(project):
    (project / "dvc.yaml").write_text("vars: [params.yaml:seed]\n" + STAGES)
    remember(project)
    assert not (project / RECORD).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_after_the_last_stage_does_not_make_the_run_fail(project, monkeypatch, number):
    monkeypatch.setattr(unchanged, "remember", lambda root: os.kill(os.getpid(), number))
    repro_module.remember()


def test_a_fault_after_the_last_stage_is_told_and_does_not_make_the_run_fail(project, monkeypatch, capsys):
    monkeypatch.setattr(unchanged, "remember", lambda root: 1 / 0)
    repro_module.remember()
    told = "scm run: the next run will look at all files again (ZeroDivisionError('division by zero'))\n"
    assert capsys.readouterr().err == told


def test_nothing_is_remembered_of_a_stage_that_always_runs(project):
    (project / "dvc.yaml").write_text(STAGES + "    always_changed: true\n")
    dvc(project, "repro")
    remember(project)
    assert not (project / RECORD).exists()


def test_a_change_while_dvc_looks_is_noticed_later(project, monkeypatch):
    from dvc.repo import Repo

    def status(repo: Repo, **_: object) -> dict[str, object]:
        (project / "code" / "b.py").touch()
        return {}

    monkeypatch.setattr(Repo, "status", status)
    remember(project)
    assert (project / RECORD).exists() and unchanged_stages(project) is None


def test_a_record_that_cannot_be_written_is_none(project, monkeypatch):
    def full(path: Path, value: object) -> None:
        raise UserError(f"{path}: the disk is full")

    monkeypatch.setattr(unchanged, "write_sealed", full)
    remember(project)
    assert not (project / RECORD).exists()


@pytest.mark.parametrize(("arguments", "remembered"), [((), True), (("first",), False), (("--dry",), False)])
def test_a_run_of_the_whole_pipeline_remembers(project, monkeypatch, arguments, remembered):
    """With real dvc, in this process."""
    (project / RECORD).unlink()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        repro([str(Path(sys.executable).parent / "dvc"), "repro", *arguments])
    assert not end.value.code
    assert (project / RECORD).exists() == remembered


def test_a_run_that_fails_remembers_nothing(project, monkeypatch):
    (project / "dvc.yaml").write_text(STAGES.replace("cp made/a.txt", "cp made/x.txt"))
    monkeypatch.chdir(project)
    done = subprocess.run(
        [sys.executable, "-m", "scm.pipeline.repro", Path(sys.executable).parent / "dvc", "repro"],
        cwd=project, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode and unchanged_stages(project) is None
