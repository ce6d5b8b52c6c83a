"""EDM2's magnitude-preserving layers (Karras et al. 2024, arXiv 2312.02696, sec. 2 and app. B), pure in the forward.

Each layer keeps the expected magnitude of its input, so that activations and weights cannot drift. EDM2 normalises its
weights in place during the forward; here the training loop does so between steps (`normalize_weights`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-4
"""Added to a vector's root mean square before dividing by it, as in EDM2."""
SILU_GAIN = 1 / 0.596
"""What gives SiLU of a unit normal input unit magnitude (EDM2 eq. 81)."""


def normalize(x: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """x / (rms(x) + 1e-4) over `dims`, by default all but the first; the norm is at least float32 (EDM2 eq. 20)."""
    dims = list(range(1, x.ndim)) if dims is None else list(dims)
    precise = x if x.dtype == torch.float64 else x.to(torch.float32)
    norm = (precise * precise).sum(dims, keepdim=True).sqrt()  # linalg.vector_norm is slower over channels on a CPU
    count = math.prod([x.shape[dim] for dim in dims])
    return x / (norm * (1 / math.sqrt(count)) + EPSILON).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU scaled to unit output magnitude for a unit normal input (EDM2 eq. 81)."""
    return functional.silu(x) * SILU_GAIN


def mp_weights(t: float) -> tuple[float, float]:
    """The factors of a and b in EDM2's magnitude-preserving weighted sum (eq. 88), whose squares sum to 1."""
    length = math.sqrt((1 - t) ** 2 + t**2)
    return (1 - t) / length, t / length


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Magnitude-preserving weighted sum (EDM2 eq. 88)."""
    return torch.lerp(a, b, t) * (1 / math.sqrt((1 - t) ** 2 + t**2))


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Magnitude-preserving concatenation along the channels, balanced by t (EDM2 eq. 103)."""
    count_a, count_b = a.shape[1], b.shape[1]
    if count_a == count_b and t == 0.5:  # both factors are 1
        return torch.cat([a, b], dim=1)
    scale = math.sqrt((count_a + count_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale / math.sqrt(count_a) * (1 - t)), b * (scale / math.sqrt(count_b) * t)], dim=1)


def downsample(x: Tensor) -> Tensor:
    """Halves the resolution by averaging 2x2 pixels: EDM2's resampling filter [1, 1]."""
    return functional.avg_pool2d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Doubles the resolution by repeating pixels: EDM2's resampling filter [1, 1]."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def arranged(x: Tensor) -> Tensor:
    """x, with each pixel's channels side by side in memory where convolutions are faster so: on a CPU without graph.

    What follows keeps the order.
    """
    return x.contiguous(memory_format=torch.channels_last) if _may_be_arranged(x) else x


def _may_be_arranged(x: Tensor) -> bool:
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return type(x) is Tensor and x.device.type == "cpu" and not torch.is_grad_enabled() and not traced


def _by_pixel(x: Tensor) -> bool:
    return _may_be_arranged(x) and x.is_contiguous(memory_format=torch.channels_last)


class MPConv(nn.Module):
    """Convolution (linear layer if kernel is 0) whose weight acts as if each output's row had unit norm (EDM2 eq. 47).

    Args:
        kernel: width of the square kernel; 0 = linear layer.

    Attributes:
        fixed: True if the weight is stored as its forward would normalise it.
    """

    fixed = False

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        shape = (out_channels, in_channels) + ((kernel, kernel) if kernel else ())
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W], or [B, in] -> [B, out]; `gain` scales the output."""
        precise = self.weight if self.weight.dtype == torch.float64 else self.weight.to(torch.float32)
        fan_in = precise[0].numel()
        rows = precise if self.fixed else normalize(precise)
        weight = (rows * (gain * (1 / math.sqrt(fan_in)))).to(x.dtype)
        if weight.ndim == 2:
            return functional.linear(x, weight)
        if weight.shape[-1] == 1 and x.device.type == "cpu" and not torch.compiler.is_exporting():
            # On a CPU torch convolves 1x1 more slowly than it multiplies; runtimes of exported models do not.
            if _by_pixel(x):
                return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
            rows = weight.reshape(1, *weight.shape[:2]).expand(x.shape[0], -1, -1)
            return torch.matmul(rows, x.reshape(*x.shape[:2], -1)).reshape(x.shape[0], -1, *x.shape[2:])
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


@torch.no_grad()
def normalize_weights(module: nn.Module, wanted: Tensor | None = None) -> None:
    """EDM2's forced weight normalisation (eq. 66): gives every MPConv row unit magnitude. Called between steps.

    Args:
        wanted: false leaves the weights as they are, a decision of their device; None = true.
    """
    for layer in module.modules():
        if isinstance(layer, MPConv):
            unit = normalize(layer.weight)
            layer.weight.copy_(unit if wanted is None else torch.where(wanted, unit, layer.weight))


@torch.no_grad()
def fix_weights(module: nn.Module) -> None:
    """Normalises the weights once and for all, with the same bits: for a network that is evaluated and not trained."""
    for layer in module.modules():
        if isinstance(layer, MPConv) and not layer.fixed:
            layer.weight.copy_(normalize(layer.weight))
            layer.fixed = True
