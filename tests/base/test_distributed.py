"""Processes wait for each other for as long as one of them may be busy alone."""

from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp

from scm.base.distributed import Ranks
from scm.errors import UserError


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


def _fail_in_rank_0(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    ranks = Ranks(rank, 2, torch.device("cpu"))
    ranks.first(lambda: (folder / "done").write_text(str(rank)))

    def full_disk():
        raise OSError(28, "No space left on device")

    try:
        ranks.first(full_disk)
    except (OSError, UserError) as error:
        (folder / str(rank)).write_text(str(error))
    dist.destroy_process_group()


def test_all_processes_end_when_rank_0_fails_alone(tmp_path):
    mp.spawn(_fail_in_rank_0, (tmp_path,), nprocs=2)
    assert (tmp_path / "done").read_text() == "0"
    assert "No space left" in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text() == "rank 1 ends: rank 0 failed, as it explains"


def test_a_single_process_raises_what_its_work_raises():
    with pytest.raises(ZeroDivisionError):
        Ranks(0, 1, torch.device("cpu")).first(lambda: 1 // 0)
