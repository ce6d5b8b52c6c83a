"""A machine that has the project's files and dvc.lock alone: it fetches data/latents and trains what the others do."""

import re
from pathlib import Path

import pytest

from tests.data.test_remote import serving
from tests.pipeline.conftest import edit, make_project, runner

pytestmark = pytest.mark.slow


@pytest.fixture
def bare(tmp_path: Path, project: Path) -> Path:
    """The project without any data, but with the dvc.lock of the finished one."""
    folder = make_project(tmp_path / "bare")
    runner(folder)("cp", str(project / "dvc.lock"), str(folder))
    edit(folder, "mlflow.enabled", False)
    return folder


def test_a_teacher_on_shards_from_a_web_server_has_the_same_bits(project, bare, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    run = runner(bare)
    with serving(project / "data/latents") as web:
        edit(bare, "runtime.shards", web.address)
        said = run("python", "-m", "stages.train_teacher").stdout
    assert re.search(r"^\[train_teacher\] fetching \d of \d shards, .+, from http://127", said, re.MULTILINE)
    for folder in ("data/latents", "models/teacher/snapshots"):
        expected, found = (
            {path.name: path.read_bytes() for path in (root / folder).iterdir()} for root in (project, bare)
        )
        assert expected and found == expected
    assert "data/latents" not in run("dvc", "status", "train_teacher").stdout, "it is what dvc.lock says"
    assert web.asked.total() == 1 + len(list((project / "data/latents").glob("*.tar")))


def test_a_server_that_has_other_data_is_refused_before_any_training(project, bare, tmp_path):
    runner(project)("cp", "-rL", "data/latents", str(tmp_path / "other"))
    index = tmp_path / "other/index.json"
    index.write_text(index.read_text().replace('"0"', '"zero"'))
    edit(bare, "runtime.shards", str(tmp_path / "other"))
    done = runner(bare)("python", "-m", "stages.train_teacher", code=1)
    assert re.fullmatch(r"error: .+/index.json describes .+, but data/latents in dvc.lock is .+\n", done.stderr)
    assert not (bare / ".work/train_teacher").exists()
