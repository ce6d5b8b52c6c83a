"""Load latents in the order of training, from any position; a position is the number of images seen.

Epoch e is the permutation that generator(seed, "order", e) draws, and batches run across the ends of epochs. So a batch
depends on the seed and its position alone: resumed and distributed runs see the batches of an uninterrupted one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scm.base.randomness import generator
from scm.data.shards.shards import LABELS, OFFSETS, REMEDY, check_sizes, read_index
from scm.errors import UserError


class LatentLoader:
    """Batches of a folder of latent shards, read through memory maps.

    Attributes:
        count: images in the data set.
        classes: class names; empty = all labels are -1.
        codec_header: the argument of `Codec`.
    """

    def __init__(self, folder: Path, seed: int, batch: int, rank: int = 0, world: int = 1) -> None:
        """Opens data/latents; the order follows from the seed, and `batch` counts the images over all processes.

        Raises:
            UserError: the batch cannot be divided, or a shard is missing or truncated.
        """
        if batch % world:
            raise UserError(f"the batch of {batch} images cannot be divided among {world} processes: change either")
        index = read_index(folder)
        if index["kind"] != "latents":
            raise UserError(f"{folder} holds {index['kind']}, not latents: run `dvc repro encode`")
        check_sizes(folder, index)
        self.count: int = index["count"]
        self.classes: list[str] = index["classes"]
        self.codec_header: dict[str, Any] = index["codec"]
        self._seed, self._batch = seed, batch
        self._first, self._share = rank * (batch // world), batch // world
        self._labels = _read_array(folder / LABELS, self.count)
        offsets = _read_array(folder / OFFSETS, self.count)
        self._starts = np.cumsum([0, *(shard["count"] for shard in index["shards"])])
        self._shards = [
            _Shard(folder / shard["file"], offsets[start : start + shard["count"]], index["shape"], index["dtype"])
            for shard, start in zip(index["shards"], self._starts, strict=False)
        ]
        self._order: tuple[int, np.ndarray] = -1, np.empty(0, dtype=np.int64)

    def batch_at(self, images_seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's part of the batch that begins after `images_seen` images.

        Returns:
            What the codec stored, [batch / world, ...], and labels int64 [batch / world]. The parts of all ranks,
            concatenated, are the batch of a single process.
        """
        positions = images_seen + self._first + np.arange(self._share)
        epochs = positions // self.count
        samples = np.empty(self._share, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self._permutation(int(epoch))[positions[chosen] % self.count]
        return torch.from_numpy(self._gather(samples)), torch.from_numpy(self._labels[samples])

    def _permutation(self, epoch: int) -> np.ndarray:
        known, order = self._order  # together, as two threads may ask
        if epoch != known:
            order = torch.randperm(self.count, generator=generator(self._seed, "order", epoch)).numpy()
            self._order = epoch, order
        return order

    def _gather(self, samples: np.ndarray) -> np.ndarray:
        if len(self._shards) == 1:
            return self._shards[0].samples[samples]
        owners = np.searchsorted(self._starts, samples, side="right") - 1
        result = np.empty((len(samples), *self._shards[0].shape), dtype=self._shards[0].dtype)
        for owner in np.unique(owners):
            chosen = owners == owner
            result[chosen] = self._shards[owner].samples[samples[chosen] - self._starts[owner]]
        return result


class _Shard:
    """The samples of one tar, as a strided view of its memory map; having one size, they are evenly spaced."""

    def __init__(self, path: Path, offsets: np.ndarray, shape: list[int], dtype: str) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        steps = np.diff(offsets)
        stride = int(steps[0]) if len(steps) else 0
        if (steps != stride).any():
            raise UserError(f"{path}: its samples are not evenly spaced: {REMEDY}")
        strides, content = np.empty(self.shape, dtype=self.dtype).strides, np.memmap(path, dtype=np.uint8, mode="r")
        layout = (len(offsets), *self.shape)
        self.samples = np.ndarray(layout, self.dtype, content, int(offsets[0]), (stride, *strides))


def _read_array(path: Path, count: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {REMEDY}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): {REMEDY}") from None
    if array.shape != (count,):
        raise UserError(f"{path} has {len(array)} entries instead of {count}: {REMEDY}")
    return array
