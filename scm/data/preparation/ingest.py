"""Turn a source into shards, on all cores and in any number of processes, with the same bytes every time.

Shard i is made from the images [i * shard_images, (i + 1) * shard_images) of the source's listing and nothing else;
unusable images leave it shorter. So threads, processes and interruptions do not change the result.
A finished shard lies in the work folder with a record beside it; a shard that has both is not made again.
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from scm.base.files import (
    PATIENCE,
    awaited,
    link_or_copy,
    read_sealed,
    remove,
    replacing,
    replacing_folder,
    room_for,
    sha256,
    write_sealed,
)
from scm.base.progress import Progress
from scm.data.reading.containers import shown
from scm.data.reading.images import pillow_without_limits_of_its_own, read_cropped
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource
from scm.data.shards.shards import (
    AHEAD,
    FORMAT,
    HELD_OUT,
    INDEX,
    LABELS,
    encode_png,
    finish,
    in_order,
    write_array,
    write_tar,
)
from scm.errors import Interrupted, UserError

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """How images become shards: the parameters of the same names in the section `data`."""

    resolution: int
    channels: int
    on_bad_image: str
    shard_images: int

    def images_of(self, shard: int, count: int) -> range:
        """Numbers of the images of a shard; `count` is the number of all images."""
        return range(shard * self.shard_images, min(count, (shard + 1) * self.shard_images))

    def shards_of(self, count: int) -> range:
        return range(-(-count // self.shard_images))


@dataclass(frozen=True)
class Workers:
    """The workers: `threads` of this process, the one with this `rank` among `world` that share the work folder."""

    threads: int
    rank: int = 0
    world: int = 1


@dataclass
class Tally:
    """What happened to the images of one shard, or of all.

    Attributes:
        labels: of the images that were taken, in their order.
        short_sides: how many originals had a short side of so many pixels.
        in_colour: how many images are not grey.
        skipped: the files that were left out.
    """

    labels: array = field(default_factory=lambda: array("i"))
    short_sides: Counter[int] = field(default_factory=Counter)
    in_colour: int = 0
    skipped: Skipped = field(default_factory=Skipped)

    def add(self, other: "Tally") -> None:
        self.labels.extend(other.labels)
        self.short_sides.update(other.short_sides)
        self.in_colour += other.in_colour
        self.skipped.extend(other.skipped)


def ingest(
    source: ImageSource,
    plan: Plan,
    work: Path,
    workers: Workers,
    progress: Callable[[str], None],
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Makes those of this process's shards that the work folder lacks; process 0 then waits for the others.

    Args:
        work: the folder of unfinished work, which all processes share and an interrupted run leaves behind.
        workers: process `rank` makes every `world`-th shard.
        stopping: asked before each image; True ends the work.

    Raises:
        UserError: an unusable image (with on_bad_image "error"; the first of the listing), a full disk.
        Interrupted: `stopping` returned True.
    """
    (work / "shards").mkdir(parents=True, exist_ok=True)
    shards = plan.shards_of(len(source))
    own = shards[workers.rank :: workers.world]
    with room_for(work), pillow_without_limits_of_its_own(), ExitStack() as stack:
        pool = ThreadPoolExecutor(workers.threads)
        stack.callback(pool.shutdown, cancel_futures=True)  # drops the waiting tasks when the block fails
        # Which shards has an earlier run finished?
        done = list(pool.map(lambda shard: _is_done(work, shard), own))
        missing = [shard for shard, whole in zip(own, done, strict=True) if not whole]
        for shard in missing:
            remove(_paths(work, shard)[1])
        if any(done):
            progress(f"{sum(done)} of {len(own)} shards were made before")
        # Read and crop in threads, in the order of the listing; write as the images come.
        speed = Progress(sum(len(plan.images_of(shard, len(source))) for shard in missing), progress, "prepared")
        numbers = (number for shard in missing for number in plan.images_of(shard, len(source)))
        results = in_order(pool, lambda number: _converted(source, number, plan), numbers, AHEAD * workers.threads)
        for shard in missing:
            some = islice(results, len(plan.images_of(shard, len(source))))
            _write_shard(work, shard, source, plan, _counted(some, speed, stopping))
    if workers.rank == 0:
        _wait_for_others(work, set(shards) - set(own), progress, stopping)


def assemble(
    source: ImageSource, plan: Plan, work: Path, folder: Path, held_out: ImageSource | None = None
) -> tuple[dict[str, Any], Tally]:
    """Assembles `folder` from the shards of the work folder; an older one is replaced as a whole.

    Args:
        held_out: the images that no training sees, whose shards lie in `held_out` of the work folder.

    Returns:
        The index, as `shards.read_index` gives it, and what happened to all files. Files that are no images leave no
        trace in the folder, so that what follows from the images does not follow from them.

    Raises:
        UserError: a class of which no image is left, a shard that does not account for its images, a full disk.
    """
    with replacing_folder(folder) as temporary:
        if held_out is None:
            return _assembled(source, plan, work, temporary)
        (temporary / HELD_OUT).mkdir()
        _, others = _assembled(held_out, plan, work / HELD_OUT, temporary / HELD_OUT)
        digest = sha256(temporary / HELD_OUT / INDEX)
        index, total = _assembled(source, plan, work, temporary, {HELD_OUT: digest})
        total.add(others)
        return index, total


def _assembled(
    source: ImageSource, plan: Plan, work: Path, folder: Path, further: Mapping[str, Any] = MappingProxyType({})
) -> tuple[dict[str, Any], Tally]:
    """Puts finished shards and their index, with `further` entries, into an empty folder."""
    total, entries = Tally(skipped=Skipped(source.skipped)), []
    for shard in plan.shards_of(len(source)):
        path, record_path = _paths(work, shard)
        record = read_sealed(record_path)
        if record is None:
            raise UserError(f"{record_path} was changed while the stage ran: run the same command again")
        if len(record["labels"]) + len(record["skipped"]) != len(plan.images_of(shard, len(source))):
            raise UserError(f"{record_path} does not say what became of each image: delete it, and run this again")
        sides = Counter({int(side): count for side, count in record["short_sides"].items()})
        total.add(Tally(array("i", record["labels"]), sides, record["in_colour"], Skipped(record["skipped"])))
        if record["count"]:
            link_or_copy(path, folder / path.name)
            entries.append({"file": path.name, **{key: record[key] for key in ("count", "bytes", "sha256")}})
    _check_classes(source, set(total.labels))
    write_array(folder / LABELS, np.array(total.labels, dtype=np.int64))
    index = {
        "format": FORMAT,
        "kind": "images",
        "count": len(total.labels),
        "shape": [plan.resolution, plan.resolution, plan.channels],
        "dtype": "uint8",
        "shards": entries,
        "classes": source.classes,
        "channels": plan.channels,
        "resolution": plan.resolution,
        **further,
    }
    return finish(index, folder), total


def _check_classes(source: ImageSource, used: set[int]) -> None:
    empty = [name for label, name in enumerate(source.classes) if label not in used]
    if empty or not used:
        what = f"the class {shown(empty[0])}" if empty else "the source"
        raise UserError(f"{source.name}: {what} has no usable image: data.on_bad_image: error tells why")


def _paths(work: Path, shard: int) -> tuple[Path, Path]:
    """The file of a finished shard and that of its record."""
    return work / f"shards/{shard:06d}.tar", work / f"shards/{shard:06d}.json"


def _is_done(work: Path, shard: int) -> bool:
    """True if the work folder holds the shard with the bytes that were written; a damaged one is made again."""
    path, record_path = _paths(work, shard)
    record = read_sealed(record_path)
    return record is not None and path.is_file() and sha256(path) == record["sha256"]


@dataclass(frozen=True)
class _Image:
    """One image of the listing: its PNG and what `Cropped` says of the original, or the reason why it is unusable."""

    number: int
    png: bytes = b""
    short_side: int = 0
    colour: bool = False
    reason: str = ""


def _converted(source: ImageSource, number: int, plan: Plan) -> _Image:
    cropped = read_cropped(source, number, plan.resolution, plan.channels)
    if isinstance(cropped, str):
        return _Image(number, reason=cropped)
    return _Image(number, encode_png(cropped.pixels), cropped.short_side, cropped.colour)


def _write_shard(work: Path, shard: int, source: ImageSource, plan: Plan, images: Iterator[_Image]) -> None:
    tally, (path, record_path) = Tally(), _paths(work, shard)

    def samples() -> Iterator[tuple[str, bytes, int]]:
        for image in images:
            if image.reason:
                name, remedy = source.file_name(image.number), "repair or remove it, or set data.on_bad_image: skip"
                if plan.on_bad_image != "skip":
                    raise UserError(f"{source.name}: {shown(name)}: {image.reason}: {remedy}")
                tally.skipped.append({"file": name, "reason": image.reason})
                continue
            label = int(source.labels[image.number])
            tally.labels.append(label)
            tally.short_sides[image.short_side] += 1
            tally.in_colour += image.colour
            yield source.key(image.number), image.png, label

    with replacing(path) as temporary:
        entry = write_tar(samples(), temporary, "png")
    sides = {str(side): count for side, count in tally.short_sides.items()}
    told = {"short_sides": sides, "in_colour": tally.in_colour, "skipped": list(tally.skipped)}
    write_sealed(record_path, {**entry, "labels": list(tally.labels), **told})


def _counted(images: Iterator[_Image], speed: Progress, stopping: Callable[[], bool]) -> Iterator[_Image]:
    for image in images:
        if stopping():
            raise Interrupted(f"after {speed.done:,} images; the same command goes on with the unfinished shards")
        yield image
        speed.add(1)


def _wait_for_others(
    work: Path, shards: set[int], progress: Callable[[str], None], stopping: Callable[[], bool]
) -> None:
    """Returns when the other processes' shards are whole; torchrun ends this process if another one fails."""
    said = 0.0

    def waiting() -> None:
        nonlocal said
        if stopping():
            raise Interrupted("while other processes were working")
        if time.monotonic() - said >= 60:
            said = time.monotonic()
            missing = sum(not _paths(work, shard)[1].exists() for shard in shards)
            progress(f"waiting for {missing} shards of other processes")

    for shard in sorted(shards):
        _, record = _paths(work, shard)
        awaited(record, lambda _, shard=shard: _is_done(work, shard) or None, POLL_SECONDS, PATIENCE, waiting)
