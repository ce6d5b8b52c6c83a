import os
import resource

import numpy as np
import pytest
import torch

from scm.base.files import write_sealed
from scm.base.randomness import generator
from scm.data.shards.loader import OTHER_FILES, LatentLoader, allow_open_files
from scm.data.shards.shards import read_index, write_latents
from scm.errors import UserError

COUNT = 23
CODEC = {"name": "identity"}


@pytest.fixture
def folder(tmp_path):
    def samples():
        for number in range(COUNT):
            yield f"{number:08d}", np.full((2, 3, 3), number, np.float32), number % 5

    write_latents(samples(), tmp_path / "latents", 7, {"classes": list("abcde"), "codec": CODEC})
    return tmp_path / "latents"


def numbers(batch):
    """The sample numbers of a batch, once every value and label is checked to fit them."""
    stored, labels = batch
    assert stored.shape[1:] == (2, 3, 3) and stored.dtype == torch.float32 and labels.dtype == torch.int64
    found = stored[:, 0, 0, 0].long()
    assert torch.equal(stored, found.float().view(-1, 1, 1, 1).expand_as(stored)) and torch.equal(labels, found % 5)
    return found.tolist()


def test_what_it_says_of_itself(folder):
    loader = LatentLoader(folder, seed=0, batch=4)
    assert loader.count == COUNT and loader.classes == list("abcde") and loader.codec_header == CODEC


def test_the_order_is_one_named_permutation_per_epoch_and_batches_run_across(folder):
    expected = [
        number
        for epoch in range(4)
        for number in torch.randperm(COUNT, generator=generator(3, "order", epoch)).tolist()
    ]
    loader = LatentLoader(folder, seed=3, batch=5)
    got = [number for seen in range(0, 90, 5) for number in numbers(loader.batch_at(seen))]
    assert got == expected[:90]
    assert expected[:COUNT] != expected[COUNT : 2 * COUNT]


def test_a_batch_depends_on_its_position_alone(folder):
    loader = LatentLoader(folder, seed=0, batch=6)
    in_order = [numbers(loader.batch_at(seen)) for seen in range(0, 120, 6)]
    for step in (19, 3, 11, 0, 3):
        assert numbers(loader.batch_at(6 * step)) == in_order[step]
        assert numbers(LatentLoader(folder, seed=0, batch=6).batch_at(6 * step)) == in_order[step]


def test_a_batch_may_be_larger_than_the_data_set(folder):
    batch = numbers(LatentLoader(folder, seed=0, batch=3 * COUNT).batch_at(0))
    assert sorted(batch) == sorted(3 * list(range(COUNT)))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_parts_of_all_ranks_make_the_batch_of_one(folder, world):
    alone = LatentLoader(folder, seed=1, batch=8)
    together = [LatentLoader(folder, seed=1, batch=8, rank=rank, world=world) for rank in range(world)]
    for seen in range(0, 80, 8):
        parts = [numbers(loader.batch_at(seen)) for loader in together]
        assert {len(part) for part in parts} == {8 // world}
        assert [number for part in parts for number in part] == numbers(alone.batch_at(seen))


def test_seeds_differ(folder):
    first, second = (numbers(LatentLoader(folder, seed, batch=COUNT).batch_at(0)) for seed in (0, 1))
    assert first != second


def test_batches_may_be_changed_without_harm(folder):
    loader = LatentLoader(folder, seed=0, batch=4)
    before = numbers(loader.batch_at(0))
    loader.batch_at(0)[0].zero_()
    assert numbers(loader.batch_at(0)) == before


def test_a_shard_of_one_sample(tmp_path):
    write_latents([("a", np.arange(4, dtype=np.uint8), -1)], tmp_path / "l", 1, {"classes": [], "codec": CODEC})
    stored, labels = LatentLoader(tmp_path / "l", seed=0, batch=2).batch_at(5)
    assert stored.tolist() == [[0, 1, 2, 3]] * 2 and labels.tolist() == [-1, -1]


def test_a_batch_that_cannot_be_divided_is_refused(folder):
    with pytest.raises(UserError, match="batch of 6 images cannot be divided among 4 processes"):
        LatentLoader(folder, seed=0, batch=6, world=4)


def test_a_missing_shard_is_named(folder):
    (folder / "000001.tar").unlink()
    with pytest.raises(UserError, match=r"000001.tar is missing: run `dvc pull`, or delete"):
        LatentLoader(folder, seed=0, batch=4)


def test_a_truncated_shard_is_named(folder):
    path = folder / "000002.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"000002.tar has [\d,]+ bytes instead of"):
        LatentLoader(folder, seed=0, batch=4)


@pytest.mark.parametrize("name", ["labels.npy", "offsets.npy"])
def test_damaged_side_files_are_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    for damaged in (bytes(content), content[:-1], b""):
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name} is not what was written \(its SHA-256 differs\): run `dvc pull`"):
            LatentLoader(folder, seed=0, batch=4)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing: run `dvc pull`"):
        LatentLoader(folder, seed=0, batch=4)


def test_a_shard_that_is_cut_during_a_training_is_named(folder):
    """A mapped file would end the process by SIGBUS."""
    loader = LatentLoader(folder, seed=0, batch=COUNT)
    numbers(loader.batch_at(0))
    os.truncate(folder / "000001.tar", 600)
    with pytest.raises(UserError, match=r"000001.tar was cut while it was read: run `dvc pull`, or delete"):
        loader.batch_at(0)


def test_a_loader_closes_its_shards(folder):
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no folder of files)

    before = opened()
    loader = LatentLoader(folder, seed=0, batch=4)
    assert opened() == before + 4
    del loader
    assert opened() == before


def test_more_shards_than_the_system_lets_a_process_open_are_refused(monkeypatch):
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    allow_open_files(100)
    allow_open_files(2000)
    assert limits == [(1024, 4096), (2000 + OTHER_FILES, 4096)]
    with pytest.raises(UserError, match=r"9,000 shards need `ulimit -n 9512`, and the system allows 4096: raise its"):
        allow_open_files(9000)


def test_image_shards_are_not_latents(folder):
    index = read_index(folder)
    index.update(kind="images", channels=2, resolution=3)
    write_sealed(folder / "index.json", index)
    with pytest.raises(UserError, match="holds images, not latents: run `scm run encode`"):
        LatentLoader(folder, seed=0, batch=4)
