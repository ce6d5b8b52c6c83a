"""Room on the disk for a training: how much it writes, and a warning if that does not fit."""

import shutil
from pathlib import Path

FLOAT = 4
"""Bytes of a weight; all that a training writes is float32."""


def bytes_written(parameters: int, beside: int, profiles: int, snapshots: int, halflife: bool) -> int:
    """Bytes that a training writes: its snapshots and two checkpoints, since a new one replaces a whole old one.

    Args:
        parameters: of the model.
        beside: parameters of the module that is trained beside it.
        profiles: power-function averages.
        snapshots: of each, that are still to be written.
        halflife: True if a plain exponential average is kept too.

    >>> bytes_written(1000, 0, profiles=2, snapshots=16, halflife=False)
    168000
    """
    checkpoint = 3 * (parameters + beside) + (profiles + halflife) * parameters  # weights, two moments, averages
    return FLOAT * (parameters * (profiles * snapshots + halflife) + 2 * checkpoint)


def shortage(folder: Path, needed: int, who: str) -> str | None:
    """A warning if `needed` bytes do not fit on the disk of a folder, which need not exist; None if they do."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed <= free:
        return None
    return f"warning: {who} about {needed:,} bytes into {folder}, and its disk has {free:,} free: free some space"
