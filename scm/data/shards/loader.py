"""Load latents in the order of training, from any position; a position is the number of images seen.

Epoch e is the permutation that generator(seed, "order", e) draws, and batches run across the ends of epochs. So a batch
depends on the seed and its position alone: resumed and distributed runs see the batches of an uninterrupted one.
"""

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scm.base.randomness import generator
from scm.data.shards.shards import LABELS, OFFSETS, REMEDY, check_sizes, read_array, read_index
from scm.errors import UserError

OTHER_FILES = 512
"""Files besides the shards that a training may have open."""


class LatentLoader:
    """Batches of a folder of latent shards, read sample by sample.

    Shards are not mapped: a mapped file that is cut ends the process by a signal, without a word.

    Attributes:
        count: images in the data set.
        classes: class names; empty = all labels are -1.
        codec_header: the argument of `Codec`.
    """

    def __init__(self, folder: Path, seed: int, batch: int, rank: int = 0, world: int = 1) -> None:
        """Opens data/latents; the order follows from the seed, and `batch` counts the images over all processes.

        Raises:
            UserError: the batch cannot be divided, a shard is missing or truncated, or labels or offsets are damaged.
        """
        if batch % world:
            raise UserError(f"the batch of {batch} images cannot be divided among {world} processes: change either")
        index = read_index(folder)
        if index["kind"] != "latents":
            raise UserError(f"{folder} holds {index['kind']}, not latents: run `scm run encode`")
        check_sizes(folder, index)
        self.count: int = index["count"]
        self.classes: list[str] = index["classes"]
        self.codec_header: dict[str, Any] = index["codec"]
        self._seed, self._batch = seed, batch
        self._first, self._share = rank * (batch // world), batch // world
        self._labels = read_array(folder, index, LABELS)
        self._offsets = read_array(folder, index, OFFSETS)
        self._shape, self._dtype = tuple(index["shape"]), np.dtype(index["dtype"])
        self._starts = np.cumsum([0, *(shard["count"] for shard in index["shards"])])
        allow_open_files(len(index["shards"]))
        self._shards = [_Shard(folder / shard["file"]) for shard in index["shards"]]
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
        return self.at(samples)

    def at(self, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What the codec stored of these samples, [B, ...], and their labels, int64 [B].

        Args:
            samples: int64 [B], their numbers in the data set.
        """
        return torch.from_numpy(self._gather(samples)), torch.from_numpy(self._labels[samples])

    def _permutation(self, epoch: int) -> np.ndarray:
        known, order = self._order  # together, as two threads may ask
        if epoch != known:
            order = torch.randperm(self.count, generator=generator(self._seed, "order", epoch)).numpy()
            self._order = epoch, order
        return order

    def _gather(self, samples: np.ndarray) -> np.ndarray:
        result = np.empty((len(samples), *self._shape), dtype=self._dtype)
        content, size = result.reshape(-1).view(np.uint8).data, result[0].nbytes
        owners = np.searchsorted(self._starts, samples, side="right") - 1
        for place, (owner, offset) in enumerate(zip(owners.tolist(), self._offsets[samples].tolist(), strict=True)):
            self._shards[owner].read(content[place * size : (place + 1) * size], offset)
        return result


class _Shard:
    """An open tar."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def read(self, place: memoryview, offset: int) -> None:
        """Fills `place` with the bytes from `offset` on.

        Raises:
            UserError: the file has been cut, or the disk fails.
        """
        try:
            got = os.preadv(self._handle, [place], offset)
        except OSError as error:
            raise UserError(f"{self._path} cannot be read ({error.strerror}): {REMEDY}") from None
        if got != len(place):
            raise UserError(f"{self._path} was cut while it was read: {REMEDY}")


def allow_open_files(number: int) -> None:
    """Raises this process's limit of open files if it has no room for so many more.

    Raises:
        UserError: the system allows fewer.
    """
    import resource  # Unix only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(f"{number:,} shards need `ulimit -n {wanted}`, and the system allows {hard}: raise its limit")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
