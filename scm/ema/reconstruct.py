"""Averages of any length from the snapshots of a finished run (EDM2 sec. 3.2)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm import weights
from scm.ema.profiles import coefficients
from scm.errors import UserError


def snapshot_file(images: int, sigma_rel: float) -> str:
    """Name of a snapshot's file; names sort by time."""
    return f"{images:012d}-{sigma_rel:.3f}.safetensors"


def reconstruct(folder: Path, sigma_rel: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The average of length sigma_rel over the whole run, as a sum of its snapshots.

    One snapshot is in memory at a time. The sum is taken in float64, since short averages have large coefficients of
    both signs; buffers, which no average changes, are taken from the last snapshot.

    Args:
        folder: snapshots of one run, each with `images` and `sigma_rel` in its header.

    Returns:
        State of the model in float32, and the last snapshot's header with the new sigma_rel.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no snapshots: run `dvc repro` to train the model")
    headers = [weights.read_header(file) for file in files]
    last = max(range(len(files)), key=lambda index: headers[index]["images"])
    factors = coefficients(
        [header["images"] for header in headers],
        [header["sigma_rel"] for header in headers],
        headers[last]["images"],
        sigma_rel,
    )
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
