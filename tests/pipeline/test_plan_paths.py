"""A plan recognises the images whatever form data.path has, and brings them by their .dvc file."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scm.pipeline import dvc_command
from scm.pipeline.plan import _Planner


@pytest.mark.parametrize("form", ["in", "in/", "./in", "data/../in", "{root}/in", "{root}/in/", "{root}/../link/in"])
def test_new_images_are_data_in_every_form_of_the_path(tmp_path: Path, form: str) -> None:
    root = tmp_path / "p"
    (root / "in").mkdir(parents=True)
    (root / "in/new.png").touch()
    (root / "data").mkdir()
    (tmp_path / "link").symlink_to(root)
    repo: Any = SimpleNamespace(root_dir=str(root), index=SimpleNamespace(stages=[]))
    dep: Any = SimpleNamespace(
        def_path="in",
        fs_path=str(root / "in"),
        exists=True,
        hash_info=True,
        workspace_status=lambda: {"in": "modified"},
    )
    planner = _Planner(repo, form.format(root=root), False)
    assert planner._read_reason(dep, None) == "data: in changed"
    dep.def_path = dep.fs_path = str(root / "code.py")
    assert planner._read_reason(dep, None) == f"code: {root}/code.py"


@pytest.mark.parametrize("form", ["in", "in/", "./in/"])
def test_images_come_by_their_dvc_file_in_every_form_of_the_path(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.dvc").touch()
    called = []

    def dvc(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        called.append(arguments)
        return subprocess.CompletedProcess((), 0, "", "")

    monkeypatch.setattr(dvc_command, "dvc", dvc)
    dvc_command.bring_images(tmp_path, form, None)
    assert called == [("checkout", "in.dvc")]
