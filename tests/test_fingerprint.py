"""A stage's fingerprint follows from what the stage reads, and from nothing else."""

from pathlib import Path

import pytest

from scm.errors import UserError
from scm.fingerprint import content_hash, inputs_of

DVC = """
stages:
  prepare:
    cmd: x
    params: [data]
    deps: ["${data.path}"]
    outs: [data/shards]
  train_student:
    matrix: {method: "${student.methods}"}
    cmd: x ${item.method}
    params: [seed, "student.${item.method}"]
    deps: [data/shards, code]
"""
LOCK = "schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n    - {path: data/shards, md5: abc.dir}\n"
PARAMS = {
    "seed": 0,
    "data": {"path": "raw"},
    "student": {"methods": ["scd", "sct"], "scd": {"images": "1Ki"}, "sct": {"images": "1Ki"}},
    "runtime": {"threads": 1},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "dvc.lock").write_text(LOCK)
    for name in ("raw", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1")
    return tmp_path


def key(root: Path, item: str = "scd", **changes: object) -> str:
    return inputs_of(root, "train_student", item, {**PARAMS, **changes}).key


def test_inputs_are_those_of_dvc_yaml(root):
    inputs = inputs_of(root, "train_student", "scd", PARAMS)
    assert inputs.params == {"seed": 0, "student.scd.images": "1Ki"}
    assert inputs.dependencies == {"data/shards": "abc.dir", "code": content_hash(root / "code")}
    assert set(inputs_of(root, "prepare", None, PARAMS).dependencies) == {"raw"}


def test_what_the_stage_reads_changes_the_key(root):
    before = key(root)
    assert key(root, seed=1) != before
    assert key(root, "sct") != before
    student = {**PARAMS["student"], "scd": {"images": "2Ki"}}
    assert key(root, student=student) != before
    (root / "dvc.lock").write_text(LOCK.replace("abc", "abd"))
    assert key(root) != before
    (root / "dvc.lock").write_text(LOCK)
    (root / "code/a.py").write_text("2")
    assert key(root) != before


def test_what_it_does_not_read_does_not(root):
    before = key(root)
    student = {**PARAMS["student"], "sct": {"images": "2Ki"}}
    assert key(root, student=student, runtime={"threads": 8}) == before
    (root / "code/__pycache__").mkdir()
    (root / "code/__pycache__/a.pyc").write_text("x")
    (root / "raw/a.py").write_text("2")
    assert key(root) == before


def test_names_count_as_well_as_contents(root):
    before = content_hash(root / "code")
    (root / "code/a.py").rename(root / "code/b.py")
    assert content_hash(root / "code") != before


def test_what_is_missing_is_named(root):
    with pytest.raises(
        UserError, match=r"dvc\.yaml has no stage report: restore it, or run one of prepare, train_student"
    ):
        inputs_of(root, "report", None, PARAMS)
    with pytest.raises(UserError, match=r"nowhere is missing: run `dvc repro`, or correct the path in params\.yaml"):
        inputs_of(root, "prepare", None, {**PARAMS, "data": {"path": "nowhere"}})
