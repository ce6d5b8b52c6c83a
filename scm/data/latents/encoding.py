"""Encode image shards to latent shards one by one, so that interrupted runs resume and processes share the work.

Each image shard becomes a folder of one latent shard in the work folder, whole or absent; `join` makes data/latents of
them. A shard depends on its images alone, so neither interruptions nor the number of processes change a byte.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from torch import Tensor

from scm.base.files import PATIENCE, awaited, link_or_copy, remove, replacing_folder
from scm.base.forms import Whole, require
from scm.base.precision import DTYPES
from scm.base.progress import Progress
from scm.data.latents.codec import ChannelStatistics, Codec
from scm.data.shards.shards import (
    INDEX,
    LABELS,
    OFFSETS,
    Batch,
    Sample,
    iterate_batches,
    read_array,
    read_index,
    verify,
    write_array,
    write_index,
    write_latents,
)
from scm.errors import UserError

PIXELS_AT_A_TIME = 2**20
MAX_IMAGES = 256
"""Most images encoded at a time, fewer if they are large; no parameter, as the statistics' sums depend on it."""
ROUND_TRIPS = 256
"""Images that are decoded again to measure what the autoencoder loses, spread evenly over the shards."""
DRAFT = "statistics"


class Draft(TypedDict):
    """What the index of an encoded shard says of its latents."""

    count: Whole
    mean: list[float]
    squares: list[float]
    psnr: list[float]


"""Key of a shard's statistics in the index of its folder in the work folder."""


def encode_shards(
    shards: Path,
    work: Path,
    codec: Codec,
    stored: str,
    rank: int,
    world: int,
    say: Callable[[str], None],
    threads: int = 1,
) -> None:
    """Encodes those of this process's shards that are not encoded yet.

    Args:
        shards: data/shards.
        work: gets a folder for each shard, named as `folder_of` says.
        codec: has a plain header; its autoencoder encodes.
        stored: fp16 or fp32, for latents; pixels stay uint8.
        rank: of `world` processes.
        threads: decode the images while the autoencoder encodes those before.
    """
    index = read_index(shards)
    mine = index["shards"][rank::world]
    progress = Progress(sum(shard["count"] for shard in mine), say, "encoded")
    trips = max(1, ROUND_TRIPS // len(index["shards"]))
    batch = max(1, min(MAX_IMAGES, PIXELS_AT_A_TIME // index["resolution"] ** 2))
    missing = [shard for shard in mine if not is_whole(folder_of(work, shard))]
    for shard in missing:
        remove(folder_of(work, shard))
    progress.skip(progress.total - sum(shard["count"] for shard in missing))
    for shard in missing:
        entries: dict[str, Any] = {"classes": index["classes"], "codec": codec.header}
        samples = _encoded(iterate_batches(shards, batch, [shard], threads), codec, stored, trips, entries, progress)
        write_latents(samples, folder_of(work, shard), shard["count"], entries)


def is_whole(folder: Path) -> bool:
    """True if an earlier run has left a shard with the bytes that it wrote; a damaged one is encoded again."""
    if not folder.exists():
        return False
    try:
        index = read_index(folder)
        verify(folder, *index["shards"])
        for name in (LABELS, OFFSETS):
            read_array(folder, index, name)
    except (UserError, FileNotFoundError):  # another process may be replacing the folder
        return False
    return True


def folder_of(work: Path, shard: dict[str, Any]) -> Path:
    """The folder of the latent shard that an image shard (an entry of the index) becomes."""
    return work / Path(shard["file"]).stem


def wait_for(work: Path, shards: Path, every: float = 0.5, patience: float = PATIENCE) -> None:
    """Returns when every process has written its shards; one that fails ends all of them (torchrun)."""
    for shard in read_index(shards)["shards"]:
        awaited(folder_of(work, shard), lambda folder: is_whole(folder) or None, every, patience)


def _encoded(
    batches: Iterator[Batch], codec: Codec, stored: str, trips: int, entries: dict[str, Any], progress: Progress
) -> Iterator[Sample]:
    """Yields the samples of a shard; at the end adds their statistics to `entries`."""
    statistics, psnr = ChannelStatistics(), []
    left = 0 if codec.header["name"] == "identity" else trips
    for keys, images, labels in batches:
        kept = _narrow(codec.encode(images), stored)
        mean, deviation = codec.moments(kept)
        statistics.add(mean, deviation)
        if left:
            psnr += _psnr(images[:left], codec.decode(mean[:left]))
            left = max(0, left - len(keys))
        progress.add(len(keys))
        yield from zip(keys, kept.numpy(), labels, strict=True)
    entries[DRAFT] = {**statistics.to_dict(), "psnr": psnr}


def _narrow(encoded: Tensor, stored: str) -> Tensor:
    """Casts latents to the type in which they are kept."""
    if not encoded.is_floating_point():
        return encoded
    kept = encoded.to(DTYPES[stored])
    if not kept.isfinite().all():
        problem = "latents that are not finite, or too large to be kept; use codec.precision: fp32 and stored: fp32"
        raise UserError(f"codec.precision, codec.stored = {stored}: {problem}")
    return kept


def _psnr(images: Tensor, decoded: Tensor) -> list[float]:
    """Peak signal-to-noise ratio of each image, dB; an exact image counts as one wrong by one level in one place."""
    squares = (images.double() - decoded.double()).square().flatten(1)
    least = 1 / squares.shape[1]
    return (10 * (255**2 / squares.mean(1).clamp(min=least)).log10()).tolist()


def measured(work: Path, shards: Path) -> tuple[ChannelStatistics, list[float]]:
    """Statistics of all latents, and the signal-to-noise ratio of each round trip, dB."""
    statistics, psnr = ChannelStatistics(), []
    for shard in read_index(shards)["shards"]:
        part = folder_of(work, shard)
        remedy = f"delete {part} and run the same command again"
        figures = require(read_index(part).get(DRAFT), Draft, f"{part / INDEX}: {DRAFT}", remedy)
        statistics.merge(ChannelStatistics.from_dict(dict(figures)))
        psnr += figures["psnr"]
    return statistics, psnr


def join(work: Path, shards: Path, folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Joins all encoded shards to data/latents, under the header of the finished codec; returns the index."""
    parts = [folder_of(work, shard) for shard in read_index(shards)["shards"]]
    indices = [read_index(part) for part in parts]
    with replacing_folder(folder) as temporary:
        # The shards keep their bytes; only their numbers change.
        files = []
        for number, (part, index) in enumerate(zip(parts, indices, strict=True)):
            (shard,) = index["shards"]
            files.append({**shard, "file": f"{number:06d}.tar"})
            link_or_copy(part / shard["file"], temporary / files[-1]["file"])
        # Labels and offsets follow each other as the shards do.
        for array in (LABELS, OFFSETS):
            arrays = [read_array(part, index, array) for part, index in zip(parts, indices, strict=True)]
            write_array(temporary / array, np.concatenate(arrays))
        # The index is that of any part, but for what is summed over the parts.
        whole = {key: value for key, value in indices[0].items() if key != DRAFT}
        whole |= {"count": sum(index["count"] for index in indices), "shards": files, "codec": header}
        whole["class_counts"] = list(map(sum, zip(*(each["class_counts"] for each in indices), strict=True)))
        return write_index(whole, temporary)
