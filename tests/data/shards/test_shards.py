import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from scm.data.shards import shards
from scm.errors import UserError
from tests.support.shards import write_shards

HEADER = {"classes": ["cat", "dog", "owl"], "channels": 3, "resolution": 6}
LATENTS = {"classes": ["cat", "dog"], "codec": {"name": "none"}}


def samples(count=10, channels=3):
    draws = np.random.default_rng(0)
    for number in range(count):
        yield f"{number:08d}", draws.integers(0, 256, (6, 6, channels), dtype=np.uint8), number % 2


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path):
    write_shards(samples(), tmp_path / "shards", 4, **HEADER)
    return tmp_path / "shards"


def test_files_counts_and_hashes(folder):
    index = shards.read_index(folder)
    assert [shard["file"] for shard in index["shards"]] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [shard["count"] for shard in index["shards"]] == [4, 4, 2]
    assert {shard["file"]: shard["sha256"] for shard in index["shards"]}.items() <= hashes(folder).items()
    assert index["count"] == 10 and index["class_counts"] == [5, 5, 0]
    assert index["kind"] == "images" and index["classes"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_exactly(tmp_path, channels):
    written = write_shards(samples(10, channels), tmp_path / "s", 4, **HEADER | {"channels": channels})
    assert written == shards.read_index(tmp_path / "s")
    for (key, pixels, label), (expected_key, expected, expected_label) in zip(
        shards.iterate(tmp_path / "s"), samples(10, channels), strict=True
    ):
        assert (key, label) == (expected_key, expected_label) and np.array_equal(pixels, expected)
    images, labels = shards.read_images(tmp_path / "s")
    assert images.shape == (10, channels, 6, 6) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert (
        np.array_equal(images[3].permute(1, 2, 0), list(samples(10, channels))[3][1]) and labels.tolist() == [0, 1] * 5
    )


def test_a_photograph_is_compressed_fast_and_becomes_smaller_than_at_level_1():
    pixels = load_sample_image("china.jpg")[:256, :256]
    usual = io.BytesIO()
    Image.fromarray(pixels).save(usual, "PNG", compress_level=1)
    content = shards.encode_png(pixels)
    assert content.split(b"IDAT")[1][:2] == b"\x78\x01"  # zlib's mark of its fastest ways
    assert len(content) < len(usual.getvalue())


def test_writing_twice_gives_the_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "someone-else")
    previous = os.umask(0o077)
    write_shards(samples(), tmp_path / "again", 4, **HEADER)
    os.umask(previous)
    assert hashes(folder) == hashes(tmp_path / "again")
    with tarfile.open(folder / "000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_a_failure_leaves_the_old_folder(folder):
    def broken():
        yield from samples(5)
        raise UserError("enough")

    before = hashes(folder)
    with pytest.raises(UserError, match="enough"):
        shards.write_latents(broken(), folder, 4, LATENTS)
    assert hashes(folder) == before and [path.name for path in folder.parent.iterdir()] == ["shards"]


def test_unlabelled_images(tmp_path):
    index = write_shards(
        ((key, pixels, -1) for key, pixels, _ in samples()), tmp_path / "s", 4, **HEADER | {"classes": []}
    )
    assert index["class_counts"] == [] and shards.read_images(tmp_path / "s")[1].tolist() == [-1] * 10


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no images to write"):
        shards.write_latents(iter(()), tmp_path / "s", 4, LATENTS)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("00000000", np.zeros((6, 6, 3), np.uint8), 0), "repeated"),
        (("a.b", np.zeros((6, 6, 3), np.uint8), 0), "unusable key"),
        (("1", np.zeros((6, 5, 3), np.uint8), 0), "shape"),
        (("1", np.zeros((6, 6, 3), np.float32), 0), "type"),
        (("1", np.zeros((6, 6, 3), np.uint8), 7), "do not fit"),
    ],
)
def test_samples_that_the_format_cannot_hold_are_refused(tmp_path, second, message):
    with pytest.raises(ValueError, match=message):
        shards.write_latents([("00000000", np.zeros((6, 6, 3), np.uint8), 0), second], tmp_path / "s", 4, LATENTS)


def test_a_changed_shard_is_found_by_its_hash(folder):
    path = folder / "000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"000001.tar is not what was written .*delete the folder and run `scm run`"):
        list(shards.iterate(folder))


def test_a_missing_shard_is_named(folder):
    (folder / "000002.tar").unlink()
    with pytest.raises(UserError, match=r"000002.tar is missing"):
        list(shards.iterate(folder))


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(UserError, match=r"index.json is missing: run `scm run` first"):
        shards.read_index(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(format=9), "no index of format 2"),
        (lambda index: index.update(kind="films"), "no index of format 2"),
        (lambda index: index.pop("classes"), "lacks classes"),
        (lambda index: index["shards"].pop(), "do not add up to 10"),
    ],
)
def test_a_damaged_index_is_refused(folder, change, message):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"index.json.*{message}"):
        shards.read_index(folder)


def test_an_index_is_verified_by_its_own_hash(folder):
    path = folder / "index.json"
    path.write_text(path.read_text().replace('"owl"', '"oak"'))
    with pytest.raises(UserError, match=r"index.json is not what was written \(its hash differs\): run `dvc pull`"):
        shards.read_index(folder)


def test_all_shards_are_verified_and_counted(folder):
    entries, counted = shards.read_index(folder)["shards"], []
    shards.verify_all(folder, entries, counted.append)
    assert counted == [4, 4, 2]
    content = bytearray((folder / "000002.tar").read_bytes())
    content[600] ^= 1
    (folder / "000002.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"000002.tar is not what was written"):
        shards.verify_all(folder, entries, counted.append)


def test_an_index_that_is_no_json_is_refused(folder):
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        shards.read_index(folder)


def test_offsets_point_at_the_numbers_inside_the_tar(tmp_path):
    arrays = [(key, pixels.astype(np.float32) / 3, label) for key, pixels, label in samples()]
    index = shards.write_latents(arrays, tmp_path / "l", 4, LATENTS)
    offsets, labels = np.load(tmp_path / "l/offsets.npy"), np.load(tmp_path / "l/labels.npy")
    assert index["kind"] == "latents" and index["shape"] == [6, 6, 3] and index["dtype"] == "float32"
    assert labels.tolist() == [0, 1] * 5
    for number, (_, array, _) in enumerate(arrays):
        content = (tmp_path / "l" / f"{number // 4:06d}.tar").read_bytes()[offsets[number] :]
        assert content.startswith(array.tobytes())
    assert all(
        np.array_equal(got[1], want[1]) for got, want in zip(shards.iterate(tmp_path / "l"), arrays, strict=True)
    )
    shards.write_latents(arrays, tmp_path / "again", 4, LATENTS)
    assert hashes(tmp_path / "l") == hashes(tmp_path / "again")


def test_many_threads_decode_the_same_pixels_in_the_same_order(folder, monkeypatch):
    monkeypatch.setattr(shards, "NUMBERS_AT_A_TIME", 2 * 6 * 6 * 3)  # two images at a time
    alone, together = (list(shards.iterate_batches(folder, 3, None, threads)) for threads in (1, 5))
    for (keys, images, labels), (others, pixels, further) in zip(alone, together, strict=True):
        assert keys == others and labels == further and torch.equal(images, pixels)
    kept = np.stack([pixels for _, pixels, _ in samples()])
    assert np.array_equal(torch.cat([images for _, images, _ in together]).permute(0, 2, 3, 1), kept)


def test_results_come_in_order_however_late_the_first_is():
    second = threading.Event()

    def late(number):
        if number == 1:
            second.set()
        return number if number else second.wait(10) and number

    with ThreadPoolExecutor(2) as pool:
        assert list(shards.in_order(pool, late, range(5), 2)) == list(range(5))


@pytest.mark.parametrize("ahead", [1, 3, 20])
def test_no_more_than_so_many_are_read_ahead(ahead):
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        for used, _ in enumerate(shards.in_order(pool, str, items(), ahead)):
            assert len(taken) <= used + ahead


def test_a_failure_in_a_thread_reaches_the_reader_after_what_comes_before():
    def inverse(number):
        return 1 / (2 - number)

    with ThreadPoolExecutor(2) as pool:
        results = shards.in_order(pool, inverse, range(5), 4)
        assert [next(results), next(results)] == [0.5, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_a_reader_that_leaves_early_leaves_no_threads(folder):
    before = threading.active_count()
    reading = shards.iterate(folder, None, 3)
    assert isinstance(reading, Generator)
    next(reading)
    reading.close()
    assert threading.active_count() == before
