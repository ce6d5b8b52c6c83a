"""Averages of any length from the snapshots of a finished run (EDM2 sec. 3.2)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from scm.base import weights
from scm.base.files import read_sealed, sha256
from scm.base.forms import Natural, Positive, require
from scm.ema.profiles import coefficients
from scm.errors import UserError


def snapshot_file(images: int, sigma_rel: float) -> str:
    """Name of a snapshot's file; names sort by time."""
    return f"{images:012d}-{sigma_rel:.3f}.safetensors"


INDEX = "index.json"
"""SHA-256 of each snapshot of a training, by the file's name; an imported model has one snapshot and no index."""


class Index(TypedDict):
    snapshots: dict[str, str]


class Dated(TypedDict):
    images: Natural


class Snapshot(Dated):
    """What the header of a snapshot says of it; the rest describes the model."""

    sigma_rel: Positive
    buffers: list[str]


HALFLIFE_FILE = "halflife.safetensors"
"""The plain exponential average at the end of a run, if one was kept; other lengths cannot be reconstructed from it."""


def verify(folder: Path) -> None:
    """Compares a training's snapshots with their index, since an average of the others would be another one.

    Raises:
        UserError: a snapshot or the index is missing or damaged, or there is a snapshot of something else.
    """
    index, remedy = folder / INDEX, "run `dvc checkout`, or delete the folder and run `scm run`"
    if not index.exists() and len(snapshots_of(folder)) == 1:
        return
    written = read_sealed(index)
    if written is None:
        raise UserError(f"{index} is {'damaged' if index.exists() else 'missing'}: {remedy}")
    known = require(written, Index, str(index), remedy)["snapshots"]
    if foreign := [file.name for file in sorted(folder.glob("*.safetensors")) if file.name not in known]:
        raise UserError(f"{folder / foreign[0]} is none of this training's snapshots: {remedy}")
    for name, digest in known.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {remedy}")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder / name} is not what was written (its SHA-256 differs): {remedy}")


def averages(folder: Path, sigma_rels: Sequence[float]) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """State and header of each average of a run: one for each of the given lengths, then the exponential one if kept.

    An imported model has a single snapshot, which is returned unchanged whatever its length.
    """
    files = snapshots_of(folder)
    if len(files) == 1:
        yield weights.load(files[0])
    else:
        for sigma_rel in sigma_rels:
            yield reconstruct(folder, sigma_rel)
    if (folder / HALFLIFE_FILE).exists():
        yield weights.load(folder / HALFLIFE_FILE)


def snapshot_times(folder: Path) -> list[int]:
    """Images seen at each snapshot, ascending."""
    return sorted({weights.read_header(file, Dated)["images"] for file in snapshots_of(folder)})


def reconstruct(folder: Path, sigma_rel: float, until: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The average of length sigma_rel over the run up to `until` images (None: its end), as a sum of snapshots.

    One snapshot is in memory at a time. The sum is taken in float64, since short averages have large coefficients of
    both signs; buffers, which no average changes, are taken from the last snapshot.

    Args:
        folder: snapshots of one run, each with `images` and `sigma_rel` in its header.
        until: images; later snapshots are ignored.

    Returns:
        State of the model in float32, and the last snapshot's header with the new sigma_rel.
    """
    read = [(file, weights.read_header(file, Snapshot)) for file in snapshots_of(folder)]
    read = [(file, header) for file, header in read if until is None or header["images"] <= until]
    files, headers = [file for file, _ in read], [header for _, header in read]
    last = max(range(len(files)), key=lambda index: headers[index]["images"])
    times, lengths = [header["images"] for header in headers], [header["sigma_rel"] for header in headers]
    factors = coefficients(times, lengths, times[last], sigma_rel)
    buffers = set(headers[last]["buffers"])
    total: dict[str, Tensor] = {}
    for index, (file, factor) in enumerate(zip(files, factors, strict=True)):
        for key, value in weights.load(file)[0].items():
            if key not in buffers:
                total[key] = total.get(key, 0) + float(factor) * value.to(torch.float64)
            elif index == last:
                total[key] = value
    state = {key: value.to(torch.float32) for key, value in total.items()}
    return state, {**headers[last], "sigma_rel": sigma_rel}


def snapshots_of(folder: Path) -> list[Path]:
    """The snapshots of a run's power-function averages, by time."""
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != HALFLIFE_FILE)
    if not files:
        raise UserError(f"{folder} holds no snapshots: run `scm run` to train the model")
    return files
