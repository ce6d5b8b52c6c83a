"""Explicit randomness: a generator for each (seed, purpose, counters), so that nothing depends on what ran before.

A run that is killed and resumed, or split over several processes, draws the same numbers, because each draw is named by
its purpose and position (images seen, epoch, sample number) and depends on no carried state.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed from the user's seed, a purpose in words and any counters; equal inputs give equal seeds."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose at one position."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, purpose, *counters))


@contextmanager
def global_draws(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seeds torch's global generator for draws that need it (dropout, initialisation); restores it afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
