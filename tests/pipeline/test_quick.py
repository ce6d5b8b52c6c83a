"""`scm run --quick` with real git and DVC but a stand-in for the run: the copy, its names, and what stays untouched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scm import cli
from scm.errors import UserError
from scm.params import load
from scm.params.project import Project
from scm.pipeline import quick
from scm.pipeline.naming import run_name
from scm.presets.apply import set_values
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  train_teacher: {cmd: "false", deps: [code.py], outs: [models/teacher/snapshots], frozen: false}
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with results that git keeps, and with images and an autoencoder that it does not know."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    params = shipped.make_project(folder)
    set_values(params, {"codec.path": "data/autoencoder", "publish.name": "mine"})
    files = {
        "dvc.yaml": DVC_YAML, "data/raw/image.png": "image", "data/autoencoder/weights": "weights",
        "results/metrics/evaluate-scd.json": "{}", "results/curves/train-teacher.csv": "images\n",
        ".gitignore": "/.work/\n/data/\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.invalid", "commit", "-qm", "start")
    monkeypatch.chdir(folder)
    return folder


def test_a_quick_run_is_a_scaled_copy_that_says_so(project, monkeypatch, capsys):
    text, calls = (project / "params.yaml").read_text(encoding="utf-8"), []

    def stand_in(arguments, *, root, parallel, environment):
        assert (project / "params.yaml").read_text(encoding="utf-8") == text, "so a kill leaves it as it was"
        calls.append((arguments, parallel, environment))
        params = load(root / "params.yaml")
        assert (params.teacher.images, params.evaluate.samples) == (16 << 10, 90)
        assert params.preset == params.registered_name == params.mlflow.experiment == "digits · quick 0.05"
        assert "train_teacher · digits · quick 0.05 " in run_name(Project(root, params), "train_teacher", None, {})
        assert (root / "params.yaml").read_text(encoding="utf-8").count("#") == text.count("#"), "comments stay"
        there = [path for path in ("data/raw/image.png", "data/autoencoder/weights") if (root / path).is_file()]
        assert len(there) == 2 and not [path for path in (root / "results").rglob("*") if path.is_file()]
        (root / "results/report.html").touch()
        return 0

    monkeypatch.setattr(quick.supervisor, "run", stand_in)
    assert cli.main(["run", "--quick", "0.05", "-v"]) == 0
    copy = project / ".work/quick-0.05/clone"
    lines = [f"scm run: quick 0.05 in {copy}", f"scm run: the report is {copy / 'results/report.html'}"]
    assert capsys.readouterr().out.splitlines() == lines
    assert calls == [(["-v"], False, {"DVC_ROOT": str(project)})]
    assert (copy / "results/report.html").is_file(), "it stays until the next quick run"
    assert (project / "params.yaml").read_text(encoding="utf-8") == text and git(project, "status", "--porcelain") == ""


def test_an_imported_teacher_comes_along(project, monkeypatch):
    (project / "dvc.yaml").write_text(DVC_YAML.replace("frozen: false", "frozen: true"), encoding="utf-8")
    calls = []
    monkeypatch.setattr(quick, "dvc", lambda folder, *arguments: calls.append(arguments))

    def stand_in(arguments, *, root, **_):
        kept = [path.relative_to(root) for path in (root / "results").rglob("*") if path.is_file()]
        assert kept == [quick.TEACHER_CURVE]
        return 75

    monkeypatch.setattr(quick.supervisor, "run", stand_in)
    assert cli.main(["run", "--quick=0.5"]) == 75
    assert calls == [("checkout", "--force", "--quiet", "train_teacher")]


def test_the_experiment_of_the_environment_is_not_the_quick_runs(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    values, told = quick.values_of(Project.open(project), 0.001)
    assert values["mlflow"]["experiment"] == "ours · quick 0.001" and values["publish"]["name"] is None
    assert [line.partition(" = ")[0] for line in told] == ["select.samples", "evaluate.samples"]


def test_what_cannot_be_scaled_is_told(project):
    set_values(project / "params.yaml", {"preset": "p" * 245})
    with pytest.raises(UserError, match=r"params.yaml, scaled by 0.1: preset = .* as the name of a registered model"):
        quick.values_of(Project.open(project), 0.1)
