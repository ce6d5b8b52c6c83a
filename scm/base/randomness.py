"""Explicit randomness: a generator for each (seed, purpose, counters), so no draw depends on earlier ones.

A run that is resumed, or split over several processes, draws the same numbers, because each draw is named by its
purpose and position (images seen, epoch, sample number).
"""

import hashlib
from collections.abc import Generator
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
def global_draws(seed: int) -> Generator[None]:
    """Seeds torch's global generator, which initialisation and dropout use, and restores it after the block."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
