"""How fast training data are read, beside two usual ways: `python benchmarks/loader.py [--folder .]`.

Each reader reads the same random samples from the same shards, in batches of 256, in random order:

- scm: `LatentLoader`, each batch at an exact position of an exact permutation of all samples;
- webdataset: its pipeline over these shards, their order and a buffer of 1,000 samples shuffled;
- DataLoader: torch's, over a data set that reads one sample at a time from its shard, in a random order of all samples.

Rates are images/s over whole epochs with the files in the page cache, the best of three epochs each, taken in turns.
`--serve` measures instead how fast one core turns stored moments into x_0, and how fast it draws the numbers alone.
The column data_wait of results/curves/train-*.csv says which fraction of its time a training waits for data.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from webdataset import __version__ as webdataset_version
from webdataset.compat import WebDataset

from scm.base.randomness import generator
from scm.data.latents.codec import Codec, plain_header
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import OFFSETS, read_index, write_latents
from scm.results.provenance import machine_name

BATCH = 256
KINDS = {
    "pixels, 32x32x3, uint8": ((3, 32, 32), np.uint8, 20_480, 4096),
    "pixels, 64x64x3, uint8": ((3, 64, 64), np.uint8, 10_240, 2048),
    "moments, 2x4x64x64, float16": ((8, 64, 64), np.float16, 4_096, 1024),
}
"""Name to shape and type of a sample, their number, and samples in one shard."""
ROUNDS = 3


class OneByOne(Dataset[tuple[torch.Tensor, int]]):
    """The samples of latent shards, each read individually."""

    def __init__(self, folder: Path) -> None:
        index = read_index(folder)
        self.shape, self.dtype = index["shape"], np.dtype(index["dtype"])
        self.offsets = np.load(folder / OFFSETS)
        self.maps = [np.memmap(folder / shard["file"], np.uint8, "r") for shard in index["shards"]]
        self.starts = np.cumsum([0, *(shard["count"] for shard in index["shards"])])

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        owner = int(np.searchsorted(self.starts, number, side="right")) - 1
        start, size = int(self.offsets[number]), int(np.prod(self.shape)) * self.dtype.itemsize
        numbers = np.frombuffer(self.maps[owner][start : start + size].tobytes(), self.dtype).reshape(self.shape)
        return torch.from_numpy(numbers.copy()), number


def ours(folder: Path) -> Iterator[torch.Tensor]:
    """One epoch by the project's loader."""
    loader = LatentLoader(folder, seed=0, batch=BATCH)
    for seen in range(0, loader.count, BATCH):
        yield loader.batch_at(seen)[0]


def plain_webdataset(folder: Path, workers: int) -> Iterable[torch.Tensor]:
    """One epoch by webdataset."""
    files = sorted(str(path) for path in folder.glob("*.tar"))
    pipeline = WebDataset(files, shardshuffle=len(files)).shuffle(1000).decode().to_tuple("npy", "cls")
    batched: Any = pipeline.batched(BATCH)  # an IterableDataset, which its annotations do not say
    return (torch.from_numpy(np.asarray(numbers)) for numbers, _ in DataLoader(batched, None, num_workers=workers))


def map_style(folder: Path, workers: int) -> Iterable[torch.Tensor]:
    """One epoch by torch's DataLoader."""
    return (numbers for numbers, _ in DataLoader(OneByOne(folder), BATCH, shuffle=True, num_workers=workers))


READERS: dict[str, Callable[[Path], Iterable[torch.Tensor]]] = {
    "scm": ours,
    "webdataset": lambda folder: plain_webdataset(folder, 0),
    "webdataset, 2 workers": lambda folder: plain_webdataset(folder, 2),
    "DataLoader": lambda folder: map_style(folder, 0),
    "DataLoader, 2 workers": lambda folder: map_style(folder, 2),
}


def rates(folder: Path, count: int) -> dict[str, float]:
    """Images/s of each reader, the best of ROUNDS epochs."""
    best = dict.fromkeys(READERS, 0.0)
    for _ in range(ROUNDS):
        for name, reader in READERS.items():
            started, seen, total = time.perf_counter(), 0, 0.0
            for numbers in reader(folder):
                seen, total = seen + len(numbers), total + float(numbers.flatten()[0])
            if seen != count:
                raise RuntimeError(f"{name} gave {seen} samples instead of {count}")
            best[name] = max(best[name], count / (time.perf_counter() - started))
    return best


def serve() -> None:
    """Prints the images a second, the best of ROUNDS times ten, of one core's draws and of all of `Codec.serve`."""
    torch.set_num_threads(1)
    print("| latents | numbers drawn an image | draws alone, images/s | served, images/s |\n|---|---:|---:|---:|")
    for shape in ((4, 64, 64), (4, 32, 32)):
        codec = Codec(plain_header("sd_vae", 0.5, list(shape), {"sha256": [], "config": {}, "precision": "fp32"}))
        stored, image = torch.rand(BATCH, 2 * shape[0], *shape[1:]).half(), torch.empty(shape)
        best = {"draws": 0.0, "served": 0.0}
        for _ in range(10 * ROUNDS):
            started = time.thread_time()
            for place in range(BATCH):
                image.normal_(generator=generator(0, "latents", place))
            drawn = time.thread_time()
            codec.serve(stored, partial(generator, 0, "latents"))
            best["draws"] = max(best["draws"], BATCH / (drawn - started))
            best["served"] = max(best["served"], BATCH / (time.thread_time() - drawn))
        name = "x".join(map(str, shape))
        print(f"| {name} | {image.numel():,} | {best['draws']:,.0f} | {best['served']:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the samples, 0.5 GB (default: the temporary folder)")
    parser.add_argument("--serve", action="store_true", help="measure the drawing of latents")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="webdataset")
    print(f"{machine_name()}; torch {torch.__version__}, webdataset {webdataset_version}\n")
    if options.serve:
        return serve()
    print(f"| samples | {' | '.join(READERS)} |\n|---|{'---:|' * len(READERS)}")
    draws = np.random.default_rng(0)
    for kind, (shape, dtype, count, shard) in KINDS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            sample = draws.integers(0, 100, (64, *shape)).astype(dtype)
            samples = ((f"{number:08d}", sample[number % 64], 0) for number in range(count))
            write_latents(samples, Path(folder) / "latents", shard, {"classes": ["all"], "codec": {}})
            found = rates(Path(folder) / "latents", count)
        cells = [f"{rate:,.0f} ({rate / found['scm']:.2f} x)" for rate in found.values()]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
