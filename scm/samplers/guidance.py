"""Guidance: F_guided = F_base + s (F - F_base).

F_base is the network's own prediction without label (classifier-free guidance, sec. 5.1), or that of a second network:
EDM2's guidance, and with a smaller or less trained network autoguidance (arXiv 2406.02507).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scm import trigflow


def guided(network: Callable[..., Tensor], x: Tensor, t: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """F of a network, guided with a scale for each sample.

    A network with an attribute `guide`, another network, is guided by that one with the same labels. Without, it guides
    itself, if it was trained with label dropout: both predictions come from one evaluation of a doubled batch, and a
    sample without label is not changed.

    Args:
        x: x_t / sigma_d, [B, C, H, W].
        t: radians, [B].
        labels: int64 [B], -1 = no label; or rows, float [B, classes].
        scale: s, [B]; 1 = the network's own prediction, 0 = F_base.

    Returns:
        [B, C, H, W].
    """
    guide = getattr(network, "guide", None)
    if guide is None:
        both = torch.cat([labels, torch.full_like(labels, 0 if labels.is_floating_point() else -1)])
        own, base = network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    else:
        own, base = network(x, t, labels), guide(x, t, labels)
    return base + trigflow.per_sample(scale, x) * (own - base)
