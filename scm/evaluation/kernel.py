"""The kernel inception distance between two sets of features, which lacks the bias of the Frechet distance.

The unbiased estimate of the squared maximum mean discrepancy under the kernel k(x, y) = (x . y / F + 1)^3 (Binkowski et
al. 2018, arXiv 1801.01401). Its expectation does not depend on the number of images, and is 0 for two sets of one
distribution, so a value may be slightly negative. We use all pairs instead of the usual random subsets: the same
estimate with less noise and without draws.
"""

from torch import Tensor

from scm.errors import UserError

BLOCK = 2**23
"""Values of the kernel held at a time, 64 MiB of float64; bounds the memory and changes the rounding alone."""


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """The unbiased estimate, in float64.

    Args:
        real: Features [N, F] of real images.
        generated: Features [M, F] of generated images, on the same device.

    Raises:
        UserError: Fewer than two images on either side.
    """
    if min(len(real), len(generated)) < 2:
        problem = f"needs at least 2 images on either side, not {len(real)} real and {len(generated)} generated"
        raise UserError(f"a kernel distance {problem}: raise evaluate.samples, or add images")
    real, generated = real.double(), generated.double()
    between = _sum(real, generated) / (len(real) * len(generated))
    return _within(real) + _within(generated) - 2 * between


def _within(features: Tensor) -> float:
    """Mean of the kernel over all pairs of two different features [N, F]."""
    itself = float(_kernel((features * features).sum(dim=1), features.shape[1]).sum())
    return (_sum(features, features) - itself) / (len(features) * (len(features) - 1))


def _sum(first: Tensor, second: Tensor) -> float:
    height = max(1, BLOCK // len(second))
    return sum(float(_kernel(some @ second.T, second.shape[1]).sum()) for some in first.split(height))


def _kernel(products: Tensor, size: int) -> Tensor:
    return (products / size + 1) ** 3
