"""The Frechet distance between two normal distributions (Heusel et al. 2017, arXiv 1706.08500)."""

import torch
from torch import Tensor


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix [F, F], float64, whose negative eigenvalues count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, root: Tensor | None = None) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in squared units of a feature.

    C1 C2 and the symmetric C1^(1/2) C2 C1^(1/2) have the same eigenvalues, whose roots sum to the trace of the root.
    Eigenvalues that rounding has made negative count as 0.

    Means are [F], covariances symmetric [F, F], all float64 on one device; `root` is the root of C1 if that is known
    already, which takes most of the time. The result is at least 0, or NaN if an input is not finite.

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> frechet_distance(torch.zeros(2).double(), eye, torch.ones(2).double(), 4 * eye)
    4.0
    """
    if not all(bool(value.isfinite().all()) for value in (mean1, cov1, mean2, cov2)):
        return float("nan")
    root = square_root(cov1) if root is None else root
    mixed = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * mixed
    return max(float(distance), 0.0)  # in this order NaN stays NaN
