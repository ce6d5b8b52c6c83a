"""Explicit randomness: a generator for each (seed, purpose, counters), so no draw depends on earlier ones.

A run that is resumed, or split over several processes, draws the same numbers, because each draw is named by its
purpose and position (images seen, epoch, sample number).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, purpose: str, *counters: int) -> int:
    """Derives a 63-bit seed from the user's seed, a purpose in words and any counters."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose at one position."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, purpose, *counters))


@contextmanager
def global_draws(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seeds torch's global generator, which dropout and initialisation use, and restores it after the block."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
