"""A stage's fingerprint follows from what the stage reads, and from nothing else."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.results import fingerprint
from scm.results.fingerprint import content_hash, inputs_of
from tests.support.pictures import deep_folder

DVC = """
stages:
  prepare:
    cmd: x
    params: [data]
    deps: ["${data.path}"]
    outs: [data/shards]
  train_student:
    foreach: ${student.methods}
    do:
      cmd: x ${key}
      params: [seed, "student.${key}"]
      deps: [data/shards, code, "models/${item}"]
  select:
    matrix: {model: "${evaluate.models}"}
    cmd: x ${item.model}
    params: [seed]
    deps: ["models/${item.model}", data/shards]
"""
LOCK = "schema: '2.0'\nstages:\n  prepare:\n    cmd: x\n    outs:\n    - {path: data/shards, md5: abc.dir}\n"
PARAMS = {
    "seed": 0,
    "data": {"path": "raw"},
    "student": {
        "methods": {"scd": "teacher", "sct": "teacher"},
        "scd": {"images": "1Ki"},
        "sct": {"images": "1Ki"},
    },
    "runtime": {"threads": 1},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "dvc.lock").write_text(LOCK)
    for name in ("raw", "code", "models/teacher", "models/scd"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.py").write_text(name if "models" in name else "1")
    return tmp_path


def key(root: Path, item: str = "scd", **changes: object) -> str:
    return inputs_of(root, "train_student", item, {**PARAMS, **changes}).key


def test_inputs_are_those_of_dvc_yaml(root):
    inputs = inputs_of(root, "train_student", "scd", PARAMS)
    assert inputs.params == {"seed": 0, "student.scd.images": "1Ki"}
    assert inputs.dependencies == {
        "data/shards": "abc.dir",
        "code": content_hash(root / "code"),
        "models/teacher": content_hash(root / "models/teacher"),
    }
    assert set(inputs_of(root, "prepare", None, PARAMS).dependencies) == {"raw"}


def test_of_foreach_the_key_is_the_method_and_the_item_what_it_starts_from(root):
    before, teacher = key(root, "sct"), key(root, "scd")
    methods = {"scd": "teacher", "sct": "scd"}
    student = {**PARAMS["student"], "methods": methods}
    inputs = inputs_of(root, "train_student", "sct", {**PARAMS, "student": student})
    assert inputs.params == {"seed": 0, "student.sct.images": "1Ki"}
    assert set(inputs.dependencies) == {"data/shards", "code", "models/scd"}
    assert inputs.dependencies["models/scd"] == content_hash(root / "models/scd") and inputs.key != before
    assert key(root, "scd", student=student) == teacher
    (root / "models/scd/a.py").write_text("trained once more")
    assert key(root, "sct", student=student) != inputs.key and key(root, "sct") == before


def test_of_a_matrix_the_item_is_its_only_name(root):
    inputs = inputs_of(root, "select", "scd", PARAMS)
    assert inputs.params == {"seed": 0} and set(inputs.dependencies) == {"models/scd", "data/shards"}


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
        UserError, match=r"dvc\.yaml has no stage report: restore it, or run one of prepare, train_student, select"
    ):
        inputs_of(root, "report", None, PARAMS)
    with pytest.raises(UserError, match=r"nowhere is missing: run `scm run`, or correct the path in params\.yaml"):
        inputs_of(root, "prepare", None, {**PARAMS, "data": {"path": "nowhere"}})


def test_files_count_in_the_order_of_their_paths(tmp_path):
    """Folder by folder: "a/z" before "a-b"; hidden files, caches and linked folders do not count."""
    counted = ["a/b/1", "a/z", "a-b", "b", "\u00e9/1"]
    for name in [*reversed(counted), ".hidden", "a/.git/x", "a/__pycache__/y.pyc"]:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(f"content of {name}")
    (tmp_path / "x/linked").symlink_to(tmp_path / "x/a")
    parts = (name.encode() + b"\0" + hashlib.sha256(f"content of {name}".encode()).digest() for name in counted)
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"".join(parts)).hexdigest()


def test_names_that_are_no_utf_8_and_deep_folders_count_too(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/t\udceate").write_bytes(b"-")
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"t\xeate\0" + hashlib.sha256(b"-").digest()).hexdigest()
    with deep_folder(tmp_path / "x/deep", 1100):
        assert len(content_hash(tmp_path / "x")) == 64
    with (
        deep_folder(tmp_path / "x/deeper", 25, "d" * 200),
        pytest.raises(UserError, match=r"cannot be read \(File name too long\): change"),
    ):
        content_hash(tmp_path / "x")


def test_what_a_system_left_counts_where_it_can_be_read(tmp_path, monkeypatch):
    for name in ("cat/1.png", "cat/Thumbs.db", "lost+found/x/1"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"-")
    os.mkfifo(tmp_path / "x/desktop.ini")
    content = hashlib.sha256(b"-").digest()
    parts = (name + b"\0" + content for name in (b"cat/1.png", b"cat/Thumbs.db", b"lost+found/x/1"))
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"".join(parts)).hexdigest()
    forbid(monkeypatch, "Thumbs.db", "x/lost+found/x")
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"cat/1.png\0" + content).hexdigest()
    (tmp_path / "x/cat/2.png").write_bytes(b"-")
    forbid(monkeypatch, "2.png")
    with pytest.raises(UserError, match=r"2\.png cannot be read \(Permission denied\): change its permissions"):
        content_hash(tmp_path / "x")


def forbid(monkeypatch, *ends):
    """Lets the system refuse files and folders whose paths end so, as it does not do for root."""

    def refusing(function):
        def call(path, *args, **settings):
            if str(path).endswith(ends):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *args, **settings)

        return call

    monkeypatch.setattr(os, "listdir", refusing(os.listdir))
    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr("builtins.open", refusing(open))


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that were read; the files of tmp_path / "x" are recorded, however small and new they are."""
    read, found = fingerprint._read, list[Path]()
    monkeypatch.setattr(fingerprint, "_read", lambda path: found.append(path) or read(path))
    monkeypatch.setattr(fingerprint, "LARGE", 1)
    monkeypatch.setattr(fingerprint, "CLOCK_TICK", -(10**12))
    for name in ("a", "b/c"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(name)
    return found


def same_times(file: Path, content: str) -> None:
    """Writes as many bytes as there are, and restores the time that a user can set."""
    status = file.stat()
    file.write_text(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "content of the same size and time": lambda folder: same_times(folder / "b/c", "b/d"),
    "appended": lambda folder: (folder / "a").write_text("a and more"),
    "renamed": lambda folder: (folder / "a").rename(folder / "z"),
    "added": lambda folder: (folder / "b/d").write_text("new"),
    "removed": lambda folder: (folder / "b/c").unlink(),
    "replaced by a link": lambda folder: ((folder / "a").unlink(), (folder / "a").symlink_to(folder / "b/c")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_recorded_folder_is_read_once_and_again_after_any_change(tmp_path, reads, change):
    folder, records = tmp_path / "x", tmp_path / "records"
    assert content_hash(folder, records) == content_hash(folder, records) and len(reads) == 1
    change(folder)
    changed = content_hash(folder, records)
    assert len(reads) == 2 and changed == content_hash(folder)
    assert content_hash(folder, records) == changed and len(reads) == 3


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, reads, monkeypatch):
    digest = hashlib.file_digest

    def late(handle, name):
        found = digest(handle, name)
        (tmp_path / "x/a").write_text("A")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", late)
        content_hash(tmp_path / "x", tmp_path / "records")
    assert content_hash(tmp_path / "x", tmp_path / "records") == content_hash(tmp_path / "x")


def test_new_and_small_files_are_not_recorded(tmp_path, reads, monkeypatch):
    for name, value in {"CLOCK_TICK": 2 * 10**9, "LARGE": 100}.items():
        with monkeypatch.context() as patch:
            patch.setattr(fingerprint, name, value)
            content_hash(tmp_path / "x", tmp_path / "records")
        assert not (tmp_path / "records").exists()


def test_a_damaged_record_is_not_believed(tmp_path, reads):
    folder, records = tmp_path / "x", tmp_path / "records"
    right = content_hash(folder, records)
    (record,) = records.iterdir()
    whole = record.read_text()
    for damaged in ("", whole[:-40], whole.replace(right, "0" * 64), "[]"):
        record.write_text(damaged)
        assert content_hash(folder, records) == right
    assert record.read_text() == whole and len(reads) == 5


def test_two_folders_have_two_records(tmp_path, reads):
    (tmp_path / "x/b/c").write_text("other")
    hashes = [content_hash(tmp_path / name, tmp_path / "records") for name in ("x", "x/b", "x", "x/b")]
    assert hashes[:2] == hashes[2:] and len(set(hashes)) == len(reads) == 2
