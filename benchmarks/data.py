"""How fast images become shards, and how much memory that takes: `python benchmarks/data.py [--images 1000]`; Linux.

Random JPEG images (256 x 256, smoothed noise) lie in class folders, a tar, WebDataset shards and Parquet files.
Each set is prepared at 64 x 64 in its own process, first with --images images, then with ten times as many.
Memory is the peak resident size of that process, less its size after the imports.
(The peak is Linux's VmHWM; ru_maxrss would count the parent process.)
Ratios compare the larger set to the smaller one; a memory ratio of 1 means memory that does not grow with the images.
`--decode 512` measures instead how fast the stages encode and reference read --images images of that side from a shard.
`--encode 512` compares ways to compress a photograph of that side as PNG, on one core.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from scm.data.preparation.ingest import Plan, Workers, assemble, ingest
from scm.data.reading.source import Wanted, open_source
from scm.data.shards.shards import FORMAT, LABELS, encode_png, finish, iterate_batches, write_array, write_tar
from scm.results.provenance import machine_name

SIDE, RESOLUTION, CLASSES, DIFFERENT, SHARD_IMAGES = 256, 64, 10, 64, 1024
GROWTH = 10
ROW_GROUP = 100
KINDS = {
    "folder": ("folder", "folder"),
    "tar": ("folder", "images.tar"),
    "webdataset": ("webdataset", "shards"),
    "parquet": ("parquet", "rows"),
}
"""Name to data.source and the name of what is read."""


def photographs() -> list[bytes]:
    """The contents of DIFFERENT JPEG files."""
    draws, files = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        small = Image.fromarray(draws.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def make(kind: str, folder: Path, count: int) -> None:
    """Writes `count` images as a folder, a tar or shards."""
    files = photographs()
    images = ((f"class{number % CLASSES}/{number:07d}", files[number % DIFFERENT], number) for number in range(count))
    if kind == "folder":
        for label in range(CLASSES):
            (folder / "folder" / f"class{label}").mkdir(parents=True)
        for name, content, _ in images:
            (folder / "folder" / f"{name}.jpg").write_bytes(content)
    elif kind == "tar":
        _pack(folder / "images.tar", ((f"{name}.jpg", content) for name, content, _ in images))
    elif kind == "parquet":
        (folder / "rows").mkdir()
        for start in range(0, count, 10 * SHARD_IMAGES):
            numbers = range(start, min(count, start + 10 * SHARD_IMAGES))
            images = [{"bytes": files[number % DIFFERENT], "path": f"{number}.jpg"} for number in numbers]
            table = pyarrow.table({"image": images, "label": [number % CLASSES for number in numbers]})
            parquet.write_table(table, folder / "rows" / f"{start:07d}.parquet", row_group_size=ROW_GROUP)
    else:
        (folder / "shards").mkdir()
        for start in range(0, count, SHARD_IMAGES):
            members = []
            for number in range(start, min(count, start + SHARD_IMAGES)):
                members.append((f"{number:07d}.jpg", files[number % DIFFERENT]))
                members.append((f"{number:07d}.cls", str(number % CLASSES).encode()))
            _pack(folder / "shards" / f"{start:07d}.tar", iter(members))


def _pack(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            archive.members.clear()  # type: ignore[attr-defined]


def measure(kind: str, folder: Path, threads: int) -> None:
    """Prepares one set; prints the seconds of listing it, the seconds in all, and the bytes by which memory grew."""
    source, name = KINDS[kind]
    before, started = resident("VmRSS"), time.perf_counter()
    plan = Plan(RESOLUTION, 3, "error", SHARD_IMAGES)
    with open_source(Wanted(source, folder / name, True, 2**20, "error")) as images:
        listed = time.perf_counter() - started
        ingest(images, plan, folder / "work", Workers(threads), lambda _: None)
        assemble(images, plan, folder / "work", folder / "out")
    print(listed, time.perf_counter() - started, resident("VmHWM") - before)


def decode(side: int, count: int, most: int) -> None:
    """Prints how many images a second come out of a shard of PNGs, for 1, 2, 4, ... threads, the best of three."""
    draws = np.random.default_rng(0)
    small = Image.fromarray(draws.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
    content = encode_png(np.array(small.resize((side, side), Image.Resampling.BICUBIC)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = write_tar(((f"{number:08d}", content, 0) for number in range(count)), folder / "000000.tar", "png")
        write_array(folder / LABELS, np.zeros(count, dtype=np.int64))
        index = {"format": FORMAT, "kind": "images", "count": count, "shape": [side, side, 3], "dtype": "uint8"}
        shards = [{"file": "000000.tar", **entry}]
        finish({**index, "shards": shards, "classes": ["one"], "channels": 3, "resolution": side}, folder)
        print("| side | threads | images/s |\n|---:|---:|---:|")
        threads = 1
        while threads <= most:
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                for _ in iterate_batches(folder, 32, threads=threads):
                    pass
                seconds.append(time.perf_counter() - started)
            print(f"| {side} | {threads} | {count / min(seconds):,.0f} |", flush=True)
            threads *= 2


def encode(side: int) -> None:
    """Prints images a second and bytes of an image for several compressions of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    photographs = [cropped(array, side) for array in load_sample_images().images]
    ways: dict[str, Callable[[np.ndarray], bytes]] = {
        "level 6": lambda pixels: png(pixels, 6, zlib.Z_FILTERED),
        "level 1": lambda pixels: png(pixels, 1, zlib.Z_FILTERED),
        "level 1, Huffman codes alone": lambda pixels: png(pixels, 1, zlib.Z_HUFFMAN_ONLY),
        "level 1, equal runs alone (the shards)": encode_png,
    }
    print("| side | compression | images/s | bytes |\n|---:|---|---:|---:|")
    for name, way in ways.items():
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            size = sum(len(way(pixels)) for _ in range(max(1, 2**20 // side**2)) for pixels in photographs)
            seconds.append(time.perf_counter() - started)
        count = len(photographs) * max(1, 2**20 // side**2)
        print(f"| {side} | {name} | {count / min(seconds):,.0f} | {size // count:,} |", flush=True)


def cropped(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a photograph."""
    height, width = pixels.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = Image.fromarray(pixels[top : top + least, left : left + least])
    return np.array(square.resize((side, side), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray, level: int, strategy: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=level, compress_type=strategy)
    return buffer.getvalue()


def resident(entry: str) -> int:
    """Resident bytes of this process: current (VmRSS) or peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{entry}:")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images of the smaller set (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to put the images (default: the temporary folder)")
    parser.add_argument("--decode", type=int, metavar="SIDE", help="measure the decoding of images of this side")
    parser.add_argument("--encode", type=int, metavar="SIDE", help="compare compressions of images of this side")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return measure(options.one[0], Path(options.one[1]), options.threads)
    print(f"{machine_name()}; {options.threads} threads\n")
    if options.encode:
        return encode(options.encode)
    if options.decode:
        return decode(options.decode, options.images, options.threads)
    print("| source | images | listed in s | images/s | memory, MiB | rate, ratio | memory, ratio |")
    print("|---|" + "---:|" * 6)
    for kind in KINDS:
        first: tuple[float, float] | None = None
        for count in (options.images, GROWTH * options.images):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                make(kind, Path(folder), count)
                command = [sys.executable, __file__, "--threads", str(options.threads), "--one", kind, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            listed, seconds, grown = map(float, done.stdout.split())
            rate, mebibytes = count / seconds, grown / 2**20
            first = first or (rate, mebibytes)
            ratios = f"{rate / first[0]:.2f} | {mebibytes / first[1]:.2f}"
            print(f"| {kind} | {count:,} | {listed:.2f} | {rate:,.0f} | {mebibytes:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
