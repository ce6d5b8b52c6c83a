"""Measure the real images' features in one pass over their shards, in blocks that are saved as they finish.

Processes share the blocks without communicating, and an interrupted pass continues with the next block. Sums run over
the images of a block in order, then over the blocks in order, so no bit depends on the number of processes.
The images' identity is hashed in the same pass: from their pixels, whatever files hold them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.files import PATIENCE, awaited, remove
from scm.base.progress import Progress
from scm.base.randomness import generator
from scm.data.shards.shards import LABELS, held_out_of, iterate_batches, read_array, read_index
from scm.errors import UserError
from scm.evaluation.extractor import LARGEST_BATCH, Extractor, require_finite
from scm.evaluation.frechet import FEWEST_SAMPLES
from scm.evaluation.held_out import pictures_of
from scm.evaluation.precision_recall import MOST_IMAGES
from scm.evaluation.statistics import Statistics, statistics_of, together

BLOCKS = 16
"""Number of blocks, of nearly equal size; with 2,048 features, the sums of a block take 100 MB."""
AGAIN = "run the same command again"
MOST_COMPARED = 50_000
"""Most images whose features and pictures are kept if samples are searched for copies of them."""
Batches = Iterator[tuple[slice, Tensor]]
"""Positions of images, and the images uint8 [B, C, H, W]."""


@dataclass(frozen=True)
class RealImages:
    """Statistics and features of all real images.

    Attributes:
        statistics: of all images.
        features: float32 [M, F], of M images chosen at random, in random order.
        pictures: uint8 [M, C, H, W], the images of these features, reduced if they are large; None if no images are
            held out, since copies are only looked for with them.
        labels: int64 [N], of all images, in order.
        classes: names of the classes; empty for unlabelled data.
        shape: [C, H, W] of an image.
        identity: hash of the images' pixels and labels in order, and of the seed that chose the features.
    """

    statistics: Statistics
    features: Tensor
    pictures: Tensor | None
    labels: Tensor
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    identity: str


def measure(
    extractor: Extractor,
    shards: Path,
    work: Path,
    seed: int,
    ranks: Ranks,
    progress: Callable[[str], None],
    threads: int = 1,
) -> None:
    """Measures those of this process's blocks that `work` lacks, or has damaged, and saves each there.

    Args:
        extractor: an extractor on the device of `ranks`.
        work: the folder of unfinished work, which all processes see.
        seed: the user's seed, which decides which features are kept.
        threads: decode the images while the extractor works on those before.

    Raises:
        UserError: too few images, or a damaged shard.
    """
    index = read_index(shards)
    count = index["count"]
    if count < FEWEST_SAMPLES:
        fewest = f"at least {FEWEST_SAMPLES} images, not {count}"
        raise UserError(f"the reference needs {fewest}: add images to data.path")
    place = torch.randperm(count, generator=generator(seed, "precision and recall")).argsort()
    keep = _keep(shards)
    own = _blocks(count)[ranks.rank :: ranks.world]
    mine = [block for block in own if weights.load_sealed(_file(work, block)) is None]
    for block in mine:  # a damaged one is measured again
        remove(_file(work, block))
    speed = Progress(sum(map(len, mine)), progress, "measured")
    for block, parts in groupby(_batches(shards, mine, threads), itemgetter(0)):
        batches = ((rows, images) for _, rows, images in parts)
        content, pixels = _block(extractor, batches, place, keep, ranks.device, speed)
        weights.save_sealed(_file(work, block), content, {"pixels": pixels})


def collect(shards: Path, work: Path, seed: int, every: float = 0.5, patience: float = PATIENCE) -> RealImages:
    """Waits for all processes and puts their blocks together. torchrun ends all of them if one fails."""
    index = read_index(shards)
    files = [_file(work, block) for block in _blocks(index["count"])]
    kept, most = dict[str, Tensor](), min(index["count"], _keep(shards).most)
    parts, pixels = list[Statistics](), list[str]()
    for file in files:
        content, header = awaited(file, weights.load_sealed, every, patience)
        pixels.append(header["pixels"])
        parts.append({key: content[key] for key in ("sum", "outer_sum", "count")})
        for name in content.keys() & {"features", "pictures"}:
            some = content[name]
            kept.setdefault(name, torch.empty(most, *some.shape[1:], dtype=some.dtype))[content["places"]] = some
    labels = read_array(shards, index, LABELS)
    shape = (index["channels"], index["resolution"], index["resolution"])
    known = [seed, shape, hashlib.sha256(labels.tobytes()).hexdigest(), pixels]
    return RealImages(
        together(parts),
        kept["features"],
        kept.get("pictures"),
        torch.from_numpy(labels),
        tuple(index["classes"]),
        shape,
        hashlib.sha256(json.dumps(known).encode()).hexdigest(),
    )


class _Keep(NamedTuple):
    """What is kept of single images."""

    most: int
    pictures: bool


def _keep(shards: Path) -> _Keep:
    return _Keep(MOST_IMAGES, pictures=False) if held_out_of(shards) is None else _Keep(MOST_COMPARED, pictures=True)


def _blocks(count: int) -> list[range]:
    """Positions of the images of each block."""
    number = min(BLOCKS, count)
    return [range(count * block // number, count * (block + 1) // number) for block in range(number)]


def _file(work: Path, block: range) -> Path:
    return work / f"features-{block.start:09d}.safetensors"


def _batches(shards: Path, blocks: list[range], threads: int) -> Iterator[tuple[range, slice, Tensor]]:
    """Yields the images of ordered blocks as (block, positions, images); reads each shard that they need once.

    Where a batch ends depends on the shard and the block alone, so that the features' bits do not follow from `blocks`.
    """
    stop = 0
    for shard in read_index(shards)["shards"]:
        position, stop = stop, stop + shard["count"]
        needed = [block for block in blocks if block.start < stop and position < block.stop]
        for _, images, _ in iterate_batches(shards, LARGEST_BATCH, [shard], threads) if needed else ():
            for block in needed:
                first, last = max(position, block.start), min(position + len(images), block.stop)
                if first < last:
                    yield block, slice(first, last), images[first - position : last - position]
            position += len(images)


@torch.no_grad()
def _block(
    extractor: Extractor, batches: Batches, place: Tensor, keep: _Keep, device: torch.device, speed: Progress
) -> tuple[dict[str, Tensor], str]:
    """Measures a block: its features' sums, the features and pictures to keep with their places, the pixels' hash."""
    sums = statistics_of(torch.zeros(0, extractor.num_features, dtype=torch.float64, device=device))
    places, kept, pictures, pixels = list[Tensor](), list[Tensor](), list[Tensor](), hashlib.sha256()
    with ThreadPoolExecutor(1) as beside:  # hashes while the extractor works
        for rows, images in batches:
            hashed = beside.submit(pixels.update, images.numpy().data)
            features = require_finite(extractor(images.to(device)), extractor.name).double()
            for key, value in statistics_of(features).items():
                sums[key] += value
            chosen = place[rows] < keep.most
            places.append(place[rows][chosen])
            kept.append(features.float().cpu()[chosen])
            pictures += [pictures_of(images[chosen])] if keep.pictures else []
            hashed.result()
            speed.add(len(images))
    content = {"places": torch.cat(places), "features": torch.cat(kept)}
    content |= {"pictures": torch.cat(pictures)} if keep.pictures else {}
    content |= {key: value.cpu() for key, value in sums.items()}
    return content, pixels.hexdigest()
