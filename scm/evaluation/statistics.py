"""Sums over features, from which mean and covariance follow; published means and covariances as such sums."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scm.errors import UserError
from scm.pickles import edm
from scm.pickles.arrays import NumpyArray

Statistics = dict[str, Tensor]
"""float64: "sum" [F] of features f, "outer_sum" [F, F] of f f^T, and their "count" []."""

PRETENDED = 50_000
"""Number of images assumed for a mean and a covariance of unknown count; the distance does not depend on it."""
SYMMETRIC = 1e-6
"""Largest difference between a covariance and its transpose, relative to its largest element."""
MOST_FEATURES = 4096
"""An extractor's number of features, at least as large as any published; bounds what a .npz file may unpack."""
LARGEST_HEADER, LARGEST_NUMBER = 2**16, 16
"""Bytes of an array's description, and of a number in it."""
UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How numpy writes .npz files."""
REMEDY = "use EDM's .npz or EDM2's .pkl for this extractor, or reference.statistics: null"


def statistics_of(features: Tensor) -> Statistics:
    """The statistics of features [N, F], float64, on their device."""
    count = torch.tensor(float(len(features)), dtype=torch.float64)
    return {"sum": features.sum(dim=0), "outer_sum": features.T @ features, "count": count}


def together(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of all parts, of which there is at least one, added in the given order."""
    remaining = iter(parts)
    result = {name: value.clone() for name, value in next(remaining).items()}
    for part in remaining:
        for name, value in part.items():
            result[name] += value
    return result


def of_moments(mean: Tensor, covariance: Tensor, count: int = PRETENDED) -> Statistics:
    """The sums of `count` features with this mean [F] and unbiased covariance [F, F], float64."""
    outer_sum = (count - 1) * covariance + count * torch.outer(mean, mean)
    return {"sum": count * mean, "outer_sum": outer_sum, "count": torch.tensor(float(count), dtype=torch.float64)}


def read_statistics(path: Path, kind: str | None, features: int) -> Statistics:
    """Reads published statistics: EDM's (.npz with mu and sigma) or EDM2's (.pkl, with mu and sigma under `kind`).

    Args:
        path: a .npz file, or a pickle, in which nothing is executed.
        kind: what EDM2's files call the distance, e.g. "fid"; None = the file must hold those of one distance.
        features: the extractor's number of features, F.

    Raises:
        UserError: the file is missing or of another kind, or has another number of features.
    """
    content = _npz(path, features) if path.suffix == ".npz" else edm.read_pickle(path)
    if isinstance(content, dict) and kind and kind in content:
        content = content[kind]
    if not isinstance(content, dict) or not {"mu", "sigma"} <= content.keys():
        raise UserError(f"{path} has no mu and sigma{f' for {kind}' if kind else ''}: {REMEDY}")
    mean, covariance = (_numbers(content[name], path) for name in ("mu", "sigma"))
    if mean.shape != (features,) or covariance.shape != (features, features):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path}: mu and sigma have shapes {shapes}, and the extractor {features} features: {REMEDY}")
    uneven = (covariance - covariance.T).abs().max() > SYMMETRIC * covariance.abs().max()
    if uneven or (covariance.diag() < 0).any():
        raise UserError(f"{path}: sigma is not symmetric or has a negative variance, so is no covariance: {REMEDY}")
    return of_moments(mean, covariance)


def _npz(path: Path, features: int) -> dict[str, Any]:
    """Reads mu and sigma, of which no more is unpacked than an extractor's can hold."""
    most = max(features, MOST_FEATURES)
    sizes = {
        f"{name}.npy": LARGEST_HEADER + LARGEST_NUMBER * count for name, count in (("mu", most), ("sigma", most**2))
    }
    try:
        with zipfile.ZipFile(path) as file:
            content = dict[str, Any]()
            for name in sizes.keys() & set(file.namelist()):
                member = file.getinfo(name)
                if member.file_size > sizes[name] or member.compress_type not in UNPACKED:
                    raise ValueError(f"{name} has {member.file_size:,} bytes, or is packed as numpy packs nothing")
                with file.open(member) as handle:
                    numbers = io.BytesIO(handle.read(member.file_size))
                content[name.removesuffix(".npy")] = np.load(numbers, allow_pickle=False)
            return content
    except Exception as error:  # numpy and zipfile stumble in many ways over what is no such file
        raise UserError(f"{path} cannot be read as .npz ({error}): check reference.statistics") from None


def _numbers(value: Any, path: Path) -> Tensor:
    value = value.value if isinstance(value, NumpyArray) else value
    if not isinstance(value, np.ndarray | Tensor):
        raise UserError(f"{path}: mu or sigma is no array: {REMEDY}")
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.astype(np.float64)) if value.dtype.kind == "f" else torch.zeros(0).long()
    if not value.is_floating_point() or not value.isfinite().all():
        raise UserError(f"{path}: mu or sigma holds something else than finite numbers: {REMEDY}")
    return value.double()
