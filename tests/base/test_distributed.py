"""Processes wait for each other for as long as one of them may be busy alone."""

from datetime import timedelta

import torch

from scm.base.distributed import Ranks


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
