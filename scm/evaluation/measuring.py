"""The real images' features: one pass over their shards, in groups of shards that are each kept when they are done.

Processes share the groups without talking to each other, and an interrupted pass goes on with the next group. Sums are
taken within a group in the order of its shards and then over the groups in their order, so that no bit of them depends
on the number of processes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scm.data.shards import LABELS, iterate_batches, read_index
from scm.errors import UserError
from scm.evaluation.extractors.base import LARGEST_BATCH, Extractor
from scm.evaluation.frechet import FEWEST_SAMPLES
from scm.evaluation.precision_recall import MOST_IMAGES
from scm.evaluation.statistics import Statistics, Sums, together
from scm.files import replacing
from scm.progress import Progress
from scm.randomness import generator

GROUPS = 16
"""Of shards; of 2,048 features the sums of a group are 100 MB."""
PARTS = ("first half", "second half", "rest")
"""Two random halves, whose distance is the floor, and the last image of an odd number."""


@dataclass(frozen=True)
class RealImages:
    """What was measured of all real images.

    Attributes:
        halves: statistics of the two halves.
        whole: of all images.
        features: float32 [M, F], of M of them chosen at random, in random order.
        labels: int64 [N], of all, in order.
        classes: names of the classes; empty for unlabelled data.
        shape: [C, H, W] of an image.
    """

    halves: tuple[Statistics, Statistics]
    whole: Statistics
    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    shape: tuple[int, ...]


def measure(
    extractor: Extractor,
    shards: Path,
    work: Path,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measures this process's groups and keeps each in `work`.

    Args:
        extractor: on `device`.
        shards: folder of image shards.
        work: the folder of unfinished work, which all processes see.
        seed: the user's seed, from which the halves and the features that are kept follow.
        progress: receives lines of text.

    Raises:
        UserError: too few images to divide into two halves, or a damaged shard.
    """
    index = read_index(shards)
    count = index["count"]
    if count < 2 * FEWEST_SAMPLES:
        raise UserError(
            f"the reference needs at least {2 * FEWEST_SAMPLES} images, not {count}: add images to data.path"
        )
    part = torch.randperm(count, generator=generator(seed, "reference floor")).argsort() // (count // 2)
    place = torch.randperm(count, generator=generator(seed, "precision and recall")).argsort()
    groups = _groups(index)
    mine = [group for group in range(rank, len(groups), world) if not _file(work, group).exists()]
    speed = Progress(sum(shard["count"] for group in mine for shard, _ in groups[group]), progress, "measured")
    for group in mine:
        content = _group(extractor, shards, groups[group], part, place, device, speed)
        with replacing(_file(work, group)) as temporary:
            save_file(content, temporary)


def collect(shards: Path, work: Path, every: float = 0.5) -> RealImages:
    """What all processes have measured; waits for them. One that fails ends all of them (torchrun)."""
    index = read_index(shards)
    files = [_file(work, group) for group in range(len(_groups(index)))]
    while not all(file.exists() for file in files):
        time.sleep(every)
    parts: list[list[Statistics]] = [[] for _ in PARTS]
    features: Tensor | None = None
    for file in files:
        content = load_file(file)
        for number, name in enumerate(PARTS):
            parts[number].append({key: content[f"{name} {key}"] for key in ("sum", "outer_sum", "count")})
        if features is None:
            features = torch.empty(min(index["count"], MOST_IMAGES), content["features"].shape[1])
        features[content["places"]] = content["features"]
    assert features is not None
    first, second, rest = (together(each) for each in parts)
    return RealImages(
        (first, second),
        together([first, second, rest]),
        features,
        torch.from_numpy(np.load(shards / LABELS)),
        tuple(index["classes"]),
        (index["channels"], index["resolution"], index["resolution"]),
    )


def _groups(index: dict[str, Any]) -> list[list[tuple[dict[str, Any], int]]]:
    """Shards with the position of their first image, every GROUPS-th to a group."""
    starts = np.cumsum([0, *(shard["count"] for shard in index["shards"])])[:-1].tolist()
    placed = list(zip(index["shards"], starts, strict=True))
    return [placed[group::GROUPS] for group in range(min(GROUPS, len(placed)))]


def _file(work: Path, group: int) -> Path:
    return work / f"features-{group:02d}.safetensors"


@torch.no_grad()
def _group(
    extractor: Extractor,
    shards: Path,
    group: list[tuple[dict[str, Any], int]],
    part: Tensor,
    place: Tensor,
    device: torch.device | str,
    speed: Progress,
) -> dict[str, Tensor]:
    """Sums of each part's features, and the features that are kept with their places among all such."""
    sums = [Sums(extractor.num_features, device) for _ in PARTS]
    places, kept = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, extractor.num_features)]
    for shard, start in group:
        for _, images, _ in iterate_batches(shards, LARGEST_BATCH, [shard]):
            features = extractor(images.to(device)).double()
            rows = slice(start, start + len(images))
            for number, each in enumerate(sums):
                each.add(features[(part[rows] == number).to(features.device)])
            chosen = place[rows] < MOST_IMAGES
            places.append(place[rows][chosen])
            kept.append(features.float().cpu()[chosen])
            start += len(images)
            speed.add(len(images))
    content = {"places": torch.cat(places), "features": torch.cat(kept)}
    for name, each in zip(PARTS, sums, strict=True):
        content |= {f"{name} {key}": value.cpu() for key, value in each.statistics.items()}
    return content
