"""Processes wait for each other for as long as one of them may be busy alone."""

from datetime import timedelta

import pytest
import torch

from scm.base.distributed import Ranks
from scm.errors import UserError
from tests.support.processes import together


def test_processes_wait_longer_than_the_verification_of_large_snapshots_takes(monkeypatch):
    asked = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **options: asked.update(options))
    Ranks.join("cpu")
    assert asked["timeout"] >= timedelta(hours=1)


def test_nccl_is_told_its_gpu_and_gloo_none(monkeypatch):
    asked = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    init = lambda backend, **options: asked.append((backend, options["device_id"]))  # noqa: E731
    monkeypatch.setattr("torch.distributed.init_process_group", init)
    Ranks.join("cuda")
    Ranks.join("cpu")
    assert asked == [("nccl", torch.device("cuda", 1)), ("gloo", None)]


def _fail_in_rank_0(ranks, folder):
    ranks.first(lambda: (folder / "done").write_text(str(ranks.rank)))

    def full_disk():
        raise OSError(28, "No space left on device")

    try:
        ranks.first(full_disk)
    except (OSError, UserError) as error:
        (folder / str(ranks.rank)).write_text(str(error))


TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "step": torch.tensor(7),
    "none": torch.empty(0),
}


def _exchange(ranks, folder):
    own = {f"{name} of {ranks.rank}": value + ranks.rank for name, value in TENSORS.items()}
    found = dict(ranks.each(own))
    assert list(found) == [f"{name} of {rank}" for rank in (0, 1) for name in TENSORS]
    for rank in (0, 1):
        assert all(torch.equal(found[f"{name} of {rank}"], value + rank) for name, value in TENSORS.items())

    def read():
        (folder / f"read by {ranks.rank}").touch()
        return TENSORS, {"images": 7, "sigma_rel": 0.05}

    tensors, header = ranks.read_once(read)
    assert header == {"images": 7, "sigma_rel": 0.05}
    assert all(torch.equal(value, TENSORS[name]) and value.dtype == TENSORS[name].dtype for name, value in tensors)
    assert ranks.read_once(lambda: None) is None


def test_all_processes_end_when_rank_0_fails_alone(tmp_path):
    together(2, _fail_in_rank_0, tmp_path)
    assert (tmp_path / "done").read_text() == "0"
    assert "No space left" in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text() == "rank 1 ends: rank 0 failed, as it explains"


def test_what_rank_0_reads_reaches_all_processes(tmp_path):
    together(2, _exchange, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["read by 0"]


def test_a_single_process_raises_what_its_work_raises():
    with pytest.raises(ZeroDivisionError):
        Ranks(0, 1, torch.device("cpu")).first(lambda: 1 // 0)
