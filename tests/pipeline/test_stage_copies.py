"""The frame of a stage: in a copy that `dvc exp run --temp` makes, and without a commit."""

import tracemalloc
from pathlib import Path

import pytest

from scm.params.project import Project
from scm.pipeline import stage
from scm.pipeline.clone import link_images
from tests.support.projects import params_with

DVC_YAML = "stages: {prepare: {cmd: c, params: [data], deps: ['${data.path}']}}\n"
CHANGES = {"data.source": "folder", "data.path": "data/raw", "mlflow.enabled": False}


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A project with an image that git ignores, and the copy of it that DVC makes from git."""
    original, copy = tmp_path / "p", tmp_path / "p/.dvc/tmp/exps/standalone/tmp1"
    for root in (original, copy):
        (root / "data/raw").mkdir(parents=True)
        (root / "dvc.yaml").write_text(DVC_YAML)
        (root / "data/raw/.gitignore").write_text("*\n")
    (original / "data/raw/cat").mkdir()
    (original / "data/raw/cat/1.png").write_bytes(b"one")
    monkeypatch.setenv("DVC_ROOT", str(original))
    monkeypatch.setattr(stage, "on_stop", lambda _: {})  # pytest keeps its own
    return original, copy


def test_a_copy_of_the_project_gets_the_images_that_git_ignores(copies: tuple[Path, Path]) -> None:
    original, copy = copies
    made = stage._open(Project(copy, params_with(CHANGES)), "prepare", None)
    assert (copy / "data/raw/cat/1.png").samefile(original / "data/raw/cat/1.png")
    assert made.work.is_relative_to(original / ".work/prepare")
    # The work folder, which copies share, follows from the images.
    assert made.inputs.key == stage._open(Project(original, params_with(CHANGES)), "prepare", None).inputs.key
    (original / "data/raw/cat/2.png").write_bytes(b"two")
    assert stage._open(Project(copy, params_with(CHANGES)), "prepare", None).inputs.key != made.inputs.key


def test_a_copy_keeps_its_own_files_and_gets_the_others_at_any_depth(copies: tuple[Path, Path]) -> None:
    original, copy = copies
    (original / "data/raw/cat/deep").mkdir()
    for name in ("cat/deep/2.png", "cat/deep/3.png"):
        (original / "data/raw" / name).write_bytes(b"theirs")
    (copy / "data/raw/cat/deep").mkdir(parents=True)
    (copy / "data/raw/cat/deep/2.png").write_bytes(b"own")
    (original / "data/raw/linked").symlink_to(original / "data/raw/cat", target_is_directory=True)
    link_images(original, copy, "data/raw")
    found = {path.relative_to(copy / "data/raw").as_posix(): path.read_bytes() for path in copy.rglob("*.png")}
    assert found == {"cat/1.png": b"one", "cat/deep/2.png": b"own", "cat/deep/3.png": b"theirs"}
    assert not (copy / "data/raw/linked").exists()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_alone_is_linked_unless_its_path_is_absolute(tmp_path: Path, absolute: bool) -> None:
    original, copy = tmp_path / "p", tmp_path / "copy"
    original.mkdir()
    (original / "images.tar").write_bytes(b"-")
    link_images(original, copy, str(original / "images.tar") if absolute else "images.tar")
    assert (copy / "images.tar").exists() is not absolute


def test_the_paths_of_very_many_images_do_not_stay_in_memory(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(2000)]
    (tmp_path / "p/raw").mkdir(parents=True)
    for name in names:
        (tmp_path / "p/raw" / name).touch()
    link_images(tmp_path / "p", tmp_path / "copy", "raw")  # what is loaded only once
    tracemalloc.start()
    link_images(tmp_path / "p", tmp_path / "copy", "raw")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * len(names)
    assert sorted(path.name for path in (tmp_path / "copy/raw").iterdir()) == names


def test_a_commit_that_will_be_missing_is_said_at_the_start(
    copies: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, _ = copies
    (original / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    stage._open(Project(original, params_with(CHANGES)), "prepare", None)
    assert capsys.readouterr().err == "[prepare] the commit will not be recorded: git is missing: install it\n"
