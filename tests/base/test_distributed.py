"""Processes wait for each other for as long as one of them may be busy alone."""

from datetime import timedelta

from scm.base.distributed import Ranks


def test_processes_wait_longer_than_the_verification_of_large_snapshots_takes(monkeypatch):
    asked = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **options: asked.update(options))
    Ranks.join("cpu")
    assert asked["timeout"] >= timedelta(hours=1)
