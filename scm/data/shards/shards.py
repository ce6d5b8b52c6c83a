"""Write and read shards: WebDataset tar files with an index of counts and hashes; equal samples give equal bytes.

Image shards hold <key>.png and <key>.cls; latent shards hold <key>.npy, uncompressed, and <key>.cls. labels.npy repeats
all labels, and offsets.npy (latents) tells where each sample's numbers begin, so that the loader reads any sample
without unpacking. The index has the hashes of all these files and of itself. A folder of shards is written under a
temporary name and renamed, so that it is whole or absent.

A folder of image shards may hold another one, `held_out`, of the images that no training sees.
"""

import io
import math
import os
import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.writer import TarWriter

from scm.base.documents import read_json
from scm.base.files import replacing_folder, sha256, unsealed, write_sealed
from scm.base.forms import FileName, Natural, Sha256, Whole, require
from scm.errors import UserError

FORMAT = 2
INDEX, LABELS, OFFSETS = "index.json", "labels.npy", "offsets.npy"
HELD_OUT = "held_out"
"""Name of the folder of held-out images' shards, and of the entry for it in the index."""
HASHING = 8
"""Most shards that are hashed at the same time."""
AHEAD = 4
"""Items for each thread that `in_order` may compute ahead of their use; bounds the memory."""
NUMBERS_AT_A_TIME = 2**18
"""Numbers that a thread decodes at a time, at least one sample: a thread costs more than a tiny image."""
REMEDY = "run `dvc pull`, or delete the folder and run `scm run`"


class Shard(TypedDict):
    file: FileName
    count: Natural
    bytes: Natural
    sha256: Sha256


class _Index(TypedDict):
    format: Literal[2]
    count: Whole
    shape: list[Whole]
    classes: list[str]
    class_counts: list[Natural]
    shards: list[Shard]
    arrays: dict[str, Sha256]


class _Images(_Index):
    kind: Literal["images"]
    channels: Whole
    resolution: Whole
    held_out: NotRequired[Sha256]


class _Latents(_Index):
    kind: Literal["latents"]
    dtype: Literal["uint8", "float16", "float32"]
    codec: dict[str, Any]  # `scm.data.latents.codec` checks it


INDICES = {"images": _Images, "latents": _Latents}
"""The form of index.json for each kind of shards."""

Sample = tuple[str, np.ndarray, int]
"""(key, numbers, label)"""
Batch = tuple[list[str], torch.Tensor, list[int]]
"""(keys, uint8 [B, C, H, W], labels)"""
Item = TypeVar("Item")
Result = TypeVar("Result")


def write_latents(samples: Iterable[Sample], folder: Path, shard_images: int, header: dict[str, Any]) -> dict[str, Any]:
    """Writes encoded samples as latent shards and their index; an older folder of that name is replaced at the end.

    Args:
        samples: (key, array, label); all of one shape and type, keys unique and free of dots.
        folder: gets 000000.tar, 000001.tar, ..., labels.npy, offsets.npy and index.json.
        shard_images: samples in one shard.
        header: further entries of the index: classes, codec. The index is written after the last sample, so they may
            still grow until then.

    Returns:
        The index, as `read_index` gives it.

    Raises:
        UserError: there are no samples.
    """
    remaining, shards, labels, keys = iter(samples), list[dict[str, Any]](), list[int](), set[str]()
    layout: tuple[list[int], str] | None = None

    def members(first: Sample) -> Iterator[tuple[str, bytes, int]]:
        nonlocal layout
        for key, array, label in chain([first], islice(remaining, shard_images - 1)):
            layout = layout or (list(array.shape), str(array.dtype))
            if (list(array.shape), str(array.dtype)) != layout or key in keys or not key or "." in key:
                raise ValueError(f"sample {key!r}: repeated or unusable key, or not of shape and type {layout}")
            keys.add(key)
            labels.append(label)
            yield key, _npy(array), label

    with replacing_folder(folder) as temporary:
        while first := next(remaining, None):
            path = temporary / f"{len(shards):06d}.tar"
            shards.append({"file": path.name, **write_tar(members(first), path, "npy")})
        if layout is None:
            raise UserError("there are no images to write: see data.source and data.path")
        write_array(temporary / LABELS, np.array(labels, dtype=np.int64))
        offsets = [_payload_offsets(temporary / each["file"]) for each in shards]
        write_array(temporary / OFFSETS, np.concatenate(offsets))
        index = {"format": FORMAT, "kind": "latents", "count": len(labels), "shape": layout[0], "dtype": layout[1]}
        return finish({**index, "shards": shards, **header}, temporary)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads and checks the index of a folder of shards.

    Raises:
        UserError: the index is missing, damaged, or of another format.
    """
    path = folder / INDEX
    index = read_json(path, dict[str, Any], damaged=REMEDY)
    form = INDICES.get(str(index.get("kind")))
    if form is None or index.get("format") != FORMAT:
        raise UserError(f"{path} is no index of format {FORMAT}: {REMEDY}")
    require(index, form, str(path), REMEDY)
    if len(index["class_counts"]) != len(index["classes"]):
        raise UserError(f"{path} has not one count a class: {REMEDY}")
    if index["count"] != sum(shard["count"] for shard in index["shards"]):
        raise UserError(f"{path}: the shards' counts do not add up to {index['count']}: {REMEDY}")
    content = unsealed(index)
    if content is None:
        raise UserError(f"{path} is not what was written (its hash differs): {REMEDY}")
    return content


def held_out_of(folder: Path) -> Path | None:
    """The folder of shards with the images that no training sees; None if no image is held out.

    Raises:
        UserError: that folder is missing, or is not the one that was written.
    """
    digest, held_out = read_index(folder).get(HELD_OUT), folder / HELD_OUT
    if digest is None:
        return None
    if not (held_out / INDEX).is_file():
        raise UserError(f"{held_out / INDEX} is missing: {REMEDY}")
    _compare(held_out / INDEX, digest)
    return held_out


def check_sizes(folder: Path, index: dict[str, Any]) -> None:
    """Checks that every shard exists and has the size that the index says; reads no content."""
    for shard in index["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise UserError(f"{path} is missing: {REMEDY}")
        if (size := path.stat().st_size) != shard["bytes"]:
            raise UserError(f"{path} has {size:,} bytes instead of {shard['bytes']:,}: {REMEDY}")


def verify(folder: Path, shard: dict[str, Any]) -> None:
    """Compares one shard (an entry of the index) with its recorded hash.

    Raises:
        UserError: the shard is missing or its bytes have changed.
    """
    check_sizes(folder, {"shards": [shard]})
    _compare(folder / shard["file"], shard["sha256"])


def verify_all(folder: Path, shards: Sequence[dict[str, Any]], done: Callable[[int], None]) -> None:
    """Verifies these shards, several at a time.

    Args:
        done: called with the number of images of each shard that is as it was written.
    """
    pool = ThreadPoolExecutor(min(HASHING, os.cpu_count() or 1))
    try:
        for shard, _ in zip(shards, pool.map(partial(verify, folder), shards), strict=True):
            done(shard["count"])
    finally:
        pool.shutdown(cancel_futures=True)


def read_array(folder: Path, index: dict[str, Any], name: str) -> np.ndarray:
    """Reads labels.npy or offsets.npy, an entry for each image.

    Raises:
        UserError: the file is missing or its bytes have changed.
    """
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path} is missing: {REMEDY}")
    _compare(path, index["arrays"].get(name))
    return np.load(path, allow_pickle=False)


def _compare(path: Path, digest: str | None) -> None:
    if sha256(path) != digest:
        raise UserError(f"{path} is not what was written (its SHA-256 differs): {REMEDY}")


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yields `function` of each item, in order; up to `ahead` of them are computed or wait at a time."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def iterate(folder: Path, shards: list[dict[str, Any]] | None = None, threads: int = 1) -> Iterator[Sample]:
    """Yields the samples in the order they were written: (key, uint8 [H, W, C] or the stored array, label).

    Args:
        shards: entries of the index; None = all.
        threads: decode the samples, which the calling thread reads.

    Raises:
        UserError: a shard is missing or damaged; each shard is checked before its first sample is yielded.
    """
    index = read_index(folder)
    members = _members(folder, index["shards"] if shards is None else shards)
    together = max(1, NUMBERS_AT_A_TIME // max(1, math.prod(index["shape"])))
    groups = iter(lambda: list(islice(members, together)), [])
    pool = ThreadPoolExecutor(threads)
    try:
        for samples in in_order(pool, partial(_decoded, index), groups, AHEAD * threads):
            yield from samples
    finally:
        pool.shutdown(cancel_futures=True)


def _members(folder: Path, shards: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the files of each sample as bytes, by the ends of their names."""
    for shard in shards:
        verify(folder, shard)
        with (folder / shard["file"]).open("rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": shard["file"], "stream": stream}]))


def _decoded(index: dict[str, Any], samples: list[dict[str, Any]]) -> list[Sample]:
    decoded = []
    for sample in samples:
        if index["kind"] == "images":
            array = np.array(Image.open(io.BytesIO(sample["png"]))).reshape(index["shape"])
        else:
            array = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
        decoded.append((sample["__key__"], array, int(sample["cls"])))
    return decoded


def iterate_batches(
    folder: Path, batch: int, shards: list[dict[str, Any]] | None = None, threads: int = 1
) -> Iterator[Batch]:
    """Yields the images in batches; the last one may be smaller. See `iterate`."""
    samples = iterate(folder, shards, threads)
    while chunk := list(islice(samples, batch)):
        keys, arrays, labels = zip(*chunk, strict=True)
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        yield list(keys), images, list(labels)


def read_images(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads a whole small data set: images uint8 [N, C, H, W] and labels int64 [N]."""
    parts = [(images, torch.tensor(labels)) for _, images, labels in iterate_batches(folder, 1024)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def write_tar(samples: Iterable[tuple[str, bytes, int]], path: Path, suffix: str) -> dict[str, Any]:
    """Writes one shard of (key, encoded content, label); returns its count, bytes and sha256 for the index."""
    count = 0
    with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0, user="", group="") as tar:
        for key, content, label in samples:
            tar.write({"__key__": key, suffix: content, "cls": str(label).encode()})
            count += 1
    return {"count": count, "bytes": path.stat().st_size, "sha256": sha256(path)}


def finish(index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Counts the classes, writes the index into the folder and returns it as read from JSON."""
    labels, images = np.unique(np.load(folder / LABELS), return_counts=True)
    counts = Counter(dict(zip(labels.tolist(), images.tolist(), strict=True)))
    if not set(counts) <= (set(range(len(index["classes"]))) or {-1}):
        raise ValueError(f"labels {sorted(counts)} do not fit {len(index['classes'])} classes")
    index["class_counts"] = [counts[label] for label in range(len(index["classes"]))]
    return write_index(index, folder)


def write_index(index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the index with the hashes of the arrays beside it, and returns it as read from JSON."""
    arrays = {name: sha256(folder / name) for name in (LABELS, OFFSETS) if (folder / name).exists()}
    write_sealed(folder / INDEX, {**index, "arrays": arrays})
    return read_index(folder)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file; np.save hides from an error why a file could not be written."""
    path.write_bytes(_npy(array))


def encode_png(array: np.ndarray) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"images are uint8 [H, W, 1 or 3], not {array.dtype} {list(array.shape)}")
    buffer, image = io.BytesIO(), Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    # Photographs hardly repeat themselves: looking for equal runs alone takes a third of the time, for the same size.
    image.save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _payload_offsets(shard: Path) -> np.ndarray:
    """Offset in a latent shard at which each sample's numbers begin: int64 [count], in bytes."""
    with tarfile.open(shard) as tar:
        members = [member for member in tar if member.name.endswith(".npy")]
    with shard.open("rb") as stream:
        offsets = []
        for member in members:
            stream.seek(member.offset_data)
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            offsets.append(stream.tell())
    return np.array(offsets, dtype=np.int64)
