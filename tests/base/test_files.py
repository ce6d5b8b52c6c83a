"""Files, weights and random numbers: whole or absent, named errors, and draws that follow from their names."""

import errno
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scm.base import weights
from scm.base.documents import read_json
from scm.base.files import read_sealed, replacing, replacing_folder, write_json
from scm.base.randomness import generator, global_draws, seed_of
from scm.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(path, dict[str, int]) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with replacing_folder(tmp_path / "f") as folder:
        (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "f") as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "old"]
    with replacing_folder(tmp_path / "f") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "new"]


@pytest.mark.parametrize("write", [replacing, replacing_folder])
def test_a_file_that_the_block_misses_is_told_as_it_is(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="other"), write(tmp_path / "made"):
        (tmp_path / "other").read_bytes()
    assert not list(tmp_path.iterdir())


def test_the_last_of_two_folders_that_are_written_at_once_stays(tmp_path, monkeypatch):
    path, replace, meanwhile = tmp_path / "made", Path.replace, [1]

    def late(self, target):
        if meanwhile and meanwhile.pop():
            target.mkdir()
            (target / "other").touch()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", late)
    with replacing_folder(path) as temporary:
        (temporary / "own").touch()
    assert [file.name for file in path.iterdir()] == ["own"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "made"
    path.mkdir()
    (path / "old").touch()

    def refused(self, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PermissionError), replacing_folder(path) as temporary:
        (temporary / "new").touch()
    assert [file.name for file in path.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [path]


def test_sealed_json_that_is_no_file_counts_as_missing(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert read_sealed(tmp_path / "loop") is None and read_sealed(tmp_path) is None


def test_packaged_models_load_where_there_are_no_unix_locks():
    code = "import sys; sys.modules |= {'fcntl': None, 'resource': None}; import scm.base.files"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unreadable_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.json is missing: run `scm run` first"):
        read_json(tmp_path / "a.json", dict)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON .*: delete it and run `scm run`"):
        read_json(tmp_path / "a.json", dict)


def test_weights_come_back_with_their_header(tmp_path):
    path, tensors = tmp_path / "w.safetensors", {"a": torch.randn(2, 3), "b": torch.arange(3)}
    weights.save(path, tensors, {"images": 7, "classes": ["x"]})
    loaded, header = weights.load(path)
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[key], value) for key, value in tensors.items())
    assert header == {"format": 2, "images": 7, "classes": ["x"]}


def test_weights_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="is missing: run `scm run` to make it"):
        weights.load(path)
    weights.save(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"is damaged \(.+\): delete it and run `scm run`"):
        weights.load(path)
    header = json.dumps({"__metadata__": {}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="has no scm header of format 2"):
        weights.load(path)


def test_tensors_and_header_are_those_of_one_file(tmp_path, monkeypatch):
    path, parse = tmp_path / "model.safetensors", weights.parse_json
    weights.save(path, {"a": torch.ones(2)}, {"of": "one"})

    def replaced_meanwhile(*arguments):
        weights.save(path, {"a": torch.zeros(2)}, {"of": "the other"})
        return parse(*arguments)

    monkeypatch.setattr(weights, "parse_json", replaced_meanwhile)
    tensors, header = weights.load(path)
    assert header["of"] == "one" and torch.equal(tensors["a"], torch.ones(2))


def test_weights_that_may_not_be_read_count_neither_as_missing_nor_as_damaged(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    weights.save_sealed(path, {"a": torch.ones(2)}, {})

    def refused(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    for read in (weights.load, weights.load_sealed, weights.read_header):
        with pytest.raises(PermissionError):
            read(path)


def test_draws_follow_from_seed_purpose_and_counters():
    draw = torch.randn(4, generator=generator(0, "noise", 128))
    assert torch.equal(draw, torch.randn(4, generator=generator(0, "noise", 128)))
    others = [(1, "noise", 128), (0, "order", 128), (0, "noise", 256), (0, "noise", 1, 28)]
    assert len({seed_of(*other) for other in [*others, (0, "noise", 128)]}) == 5
    assert all(0 <= seed_of(0, "x", n) < 2**63 for n in range(100))


def test_named_global_draws_leave_the_global_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with global_draws(5):
        named = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with global_draws(5):
        assert torch.equal(torch.rand(3), named)


def test_the_numerics_need_torch_and_numpy_alone(tmp_path: Path):
    names = "scm.trigflow, scm.networks, scm.jvp, scm.objectives, scm.samplers"
    others = ["pydantic", "safetensors", "ruamel", "mlflow", "dvc", "webdataset", "kornia", "torchmetrics", "sklearn"]
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {others}:
            raise ImportError(name + ' is not among torch and numpy')
sys.meta_path.insert(0, Refuse())
import {names}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
