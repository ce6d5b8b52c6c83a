import json

import numpy as np
import pytest
import torch

from scm.base.randomness import generator
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import write_latents
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


def test_damaged_side_files_are_named(folder):
    (folder / "labels.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"labels.npy is damaged"):
        LatentLoader(folder, seed=0, batch=4)
    np.save(folder / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"labels.npy has 3 entries instead of 23"):
        LatentLoader(folder, seed=0, batch=4)
    (folder / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"labels.npy is missing"):
        LatentLoader(folder, seed=0, batch=4)


def test_offsets_that_are_not_evenly_spaced_are_refused(folder):
    offsets = np.load(folder / "offsets.npy")
    offsets[8] += 512
    np.save(folder / "offsets.npy", offsets)
    with pytest.raises(UserError, match=r"000001.tar: its samples are not evenly spaced"):
        LatentLoader(folder, seed=0, batch=4)


def test_image_shards_are_not_latents(folder):
    index = json.loads((folder / "index.json").read_text())
    index.update(kind="images", channels=2, resolution=3, skipped=[])
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="holds images, not latents: run `dvc repro encode`"):
        LatentLoader(folder, seed=0, batch=4)
