"""scm.pipeline.naming: runs are named by what changed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from scm.params.project import Project
from scm.pipeline import naming
from scm.presets.apply import set_values
from tests.support.projects import make_project


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    monkeypatch.setattr(naming, "commit_of", lambda root: ("29212f248476743573f9180a5242b89a976ea0c3", False))
    return tmp_path


def name_of(root: Path, stage: str = "evaluate", item: str | None = "scd", **own: Any) -> str:
    return naming.run_name(Project.open(root), stage, item, own)


def test_a_run_with_the_presets_values_has_its_name(root: Path) -> None:
    assert name_of(root) == "evaluate@scd · digits · 29212f2"
    assert name_of(root, "evaluate", "teacher") == "evaluate@teacher · digits · 29212f2"
    set_values(root / "params.yaml", {"mlflow.experiment": "mine", "runtime.threads": 2, "student.sct.images": "96Ki"})
    assert name_of(root) == "evaluate@scd · digits · 29212f2", "nothing of this changes scd"


def test_three_evaluations_have_three_names(root: Path) -> None:
    names = []
    for budget in ("192Ki", "256Ki"):
        set_values(root / "params.yaml", {"teacher.images": budget})
        names.append(name_of(root))
    set_values(
        root / "params.yaml", {"seed": 1, "teacher.batch": 64, "student.scd.images": "96Ki", "select.t_mid": [0.9]}
    )
    names.append(name_of(root))
    assert names == [
        "evaluate@scd · teacher.images=192Ki · 29212f2",
        "evaluate@scd · teacher.images=256Ki · 29212f2",
        "evaluate@scd · teacher.batch=64, teacher.images=256Ki, student.images=96Ki, seed=1 and 1 more · 29212f2",
    ]


def test_a_stage_without_a_model_is_named_by_what_it_tracks(root: Path) -> None:
    set_values(root / "params.yaml", {"data.flip": True, "teacher.batch": 32})
    own = {"data.flip": True, "data.source": "digits"}
    assert naming.run_name(Project.open(root), "prepare", None, own) == "prepare · data.flip=true · 29212f2"


def test_an_unknown_preset_and_a_new_student_are_no_faults(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = {"images": "128Ki", "dropout": 0.0, "q": 4.0, "k": 6.0, "b": 0.5, "doubling": "48Ki", "c": 0.03}
    ect = {"student.methods": {"scd": "teacher", "ect": "teacher"}, "evaluate.models": ["teacher", "scd", "ect"]}
    set_values(root / "params.yaml", {**ect, "student.ect": block, "seed": 2})
    assert name_of(root, item="ect") == "evaluate@ect · seed=2 · 29212f2"
    set_values(root / "params.yaml", {"preset": "mine"})
    monkeypatch.setattr(naming, "params_hash", lambda params: "5b3062f2811e")
    monkeypatch.setattr(naming, "commit_of", lambda root: ("", True))
    assert name_of(root) == "evaluate@scd · mine 5b3062f2811e"


def test_uncommitted_changes_are_marked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=b@c"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True)[:7]
    assert name_of(root).endswith(f" · {commit}")
    set_values(root / "params.yaml", {"seed": 1})
    assert name_of(root) == f"evaluate@scd · seed=1 · {commit}+"
