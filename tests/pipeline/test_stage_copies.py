"""The frame of a stage: in a copy that `dvc exp run --temp` makes, and without a commit."""

from pathlib import Path

import pytest

from scm.params.project import Project
from scm.pipeline import stage
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
    monkeypatch.setattr(stage.signal, "signal", lambda *_: None)  # pytest keeps its own
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


def test_a_commit_that_will_be_missing_is_said_at_the_start(
    copies: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, _ = copies
    (original / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    stage._open(Project(original, params_with(CHANGES)), "prepare", None)
    assert capsys.readouterr().err == "[prepare] the commit will not be recorded: git is missing: install it\n"
