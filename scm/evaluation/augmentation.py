"""The augmentation with which the classifier is trained: small shifts, rotations and changes of scale."""

import math

import torch

SHIFT = 0.1
"""Largest shift of `augment`, as a fraction of the side."""
TURN = math.radians(10)
"""Largest rotation of `augment`, in radians."""
ZOOM = 0.1
"""Largest change of scale of `augment`: factors lie in [1 - ZOOM, 1 + ZOOM]."""


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random shifts, rotations and scales, one draw of each per image; edge pixels are repeated outwards.

    Args:
        images: float [B, C, H, W], any range.
        generator: source of all four numbers per image; it may live on another device than the images.

    Returns:
        float [B, C, H, W].
    """
    from kornia.geometry.transform import warp_affine

    height, width = images.shape[-2:]
    draws = 2 * torch.rand(len(images), 4, generator=generator, device=generator.device) - 1
    shift_x, shift_y, turn, zoom = draws.to(images).unbind(1)
    scale, angle = 1 + ZOOM * zoom, TURN * turn
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    offset_x = centre_x - cos * centre_x + sin * centre_y + SHIFT * width * shift_x
    offset_y = centre_y - sin * centre_x - cos * centre_y + SHIFT * height * shift_y
    matrix = torch.stack([cos, -sin, offset_x, sin, cos, offset_y], dim=1).reshape(-1, 2, 3)
    return warp_affine(images, matrix, (height, width), mode="bilinear", padding_mode="border")
