"""Classifier-free guidance (sec. 5.1): F_guided = F_uncond + s (F_cond - F_uncond)."""

from collections.abc import Callable

import torch
from torch import Tensor

from scm import trigflow


def guided(network: Callable[..., Tensor], x: Tensor, t: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """F of a network that was trained with label dropout, guided with a scale for each sample.

    Both predictions come from one evaluation of a doubled batch. A sample without label is not changed by guidance.

    Args:
        x: x_t / sigma_d, [B, C, H, W].
        t: radians, [B].
        labels: int64 [B], -1 = no label.
        scale: s, [B]; 1 = the network's own prediction, 0 = the one without label.

    Returns:
        [B, C, H, W].
    """
    both = torch.cat([labels, torch.full_like(labels, -1)])
    conditional, unconditional = network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return unconditional + trigflow.per_sample(scale, x) * (conditional - unconditional)
