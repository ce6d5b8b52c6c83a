"""Before a training: what runtime.shards means, what dvc.lock has to say to it, and who speaks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from scm import fetching
from scm.data.shards import write_latents
from scm.errors import UserError
from scm.fetching import fetch_latents
from scm.fingerprint import inputs_of
from scm.stage import READ_LATENTS

ROOT = Path(__file__).parents[1]
DVC = "stages:\n  train_teacher:\n    cmd: x\n    params: [seed]\n    deps: [data/latents]\n"


def make_latents(folder: Path, count: int = 30) -> Path:
    samples = ((f"{n}", np.full((1, 2, 2), n, np.uint8), 0) for n in range(count))
    write_latents(samples, folder, 7, {"classes": ["a"], "codec": {"name": "identity"}})
    return folder


def test_shards_are_fetched_for_the_stages_that_read_them():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    reading = {name for name, stage in stages.items() if fetching.FOLDER in stage.get("do", stage)["deps"]}
    assert reading == set(READ_LATENTS)


def lock(folder: Path, **changes: int) -> str:
    """A dvc.lock that knows data/latents as DVC would write it of `folder`."""
    sizes = [path.stat().st_size for path in folder.iterdir()]
    known = {"size": sum(sizes), "nfiles": len(sizes), **changes}
    entries = "".join(f"      {key}: {value}\n" for key, value in known.items())
    return f"stages:\n  encode:\n    cmd: x\n    outs:\n    - path: data/latents\n      md5: abc.dir\n{entries}"


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/dvc.yaml").write_text(DVC)
    make_latents(tmp_path / "copy")
    return tmp_path / "project"


def test_a_path_is_relative_to_the_project_and_the_first_process_of_a_machine_speaks(root, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "9")
    fetch_latents(root, "../copy", "train_teacher")
    assert sorted(path.name for path in (root / "data/latents").iterdir()) == sorted(
        path.name for path in (root / "../copy").iterdir()
    )
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("[train_teacher] fetching 5 of 5 shards, 0.1 MiB, from ")
    shutil.rmtree(root / "data")
    monkeypatch.setenv("LOCAL_RANK", "1")
    fetch_latents(root, "../copy", "train_teacher")
    assert capsys.readouterr().out == "" and (root / "data/latents/000004.tar").exists()


def test_the_processes_of_a_machine_share_the_number_of_connections(root, monkeypatch):
    asked = []
    monkeypatch.setattr(fetching, "fetch_missing", lambda folder, address, say, threads: asked.append(threads))
    for processes in ("1", "4", "64"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        fetch_latents(root, "../copy", "train_teacher")
    assert asked == [8, 2, 1]


def test_data_of_which_dvc_lock_knows_are_taken(root):
    (root / "dvc.lock").write_text(lock(root / "../copy"))
    fetch_latents(root, "../copy", "train_teacher")
    assert (root / "data/latents/000004.tar").exists()


def test_other_data_than_dvc_lock_knows_are_refused_before_they_are_fetched(root, tmp_path):
    (root / "dvc.lock").write_text(lock(make_latents(tmp_path / "larger", 40)))
    with pytest.raises(UserError) as caught:
        fetch_latents(root, "../copy", "train_teacher")
    bytes_of = {name: sum(path.stat().st_size for path in (tmp_path / name).iterdir()) for name in ("copy", "larger")}
    assert str(caught.value) == (
        f"{root}/data/latents/index.json describes 8 files of {bytes_of['copy']:,} bytes together, but data/latents in "
        f"dvc.lock is 9 files of {bytes_of['larger']:,}: delete {root}/data/latents and set runtime.shards to a copy "
        "of what dvc.lock means, or take the dvc.lock that belongs to these data"
    )
    assert [path.name for path in (root / "data/latents").iterdir()] == ["index.json"]
    (root / "dvc.lock").write_text(lock(root / "../copy", size=bytes_of["copy"] + 1))
    with pytest.raises(UserError, match=r"index.json describes 8 files"):
        fetch_latents(root, "../copy", "train_teacher")


def test_the_fingerprint_is_that_of_a_machine_where_all_was_there(root, tmp_path):
    fetch_latents(root, "../copy", "train_teacher")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "copy", whole / "data/latents")
    shutil.copy(root / "dvc.yaml", whole)
    params = {"seed": 0, "student": {"methods": {}}, "data": {"path": "x"}}
    keys = [inputs_of(each, "train_teacher", None, params).key for each in (root, whole)]
    assert keys[0] == keys[1]
