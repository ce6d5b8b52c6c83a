"""What processes that train together must have in common: on machines with disks of their own it may differ."""

from pathlib import Path

from scm.errors import UserError
from scm.files import sha256
from scm.training.distributed import Ranks


def check_same_index(index: Path, ranks: Ranks) -> None:
    """Compares this process's index.json of data/latents with the first one's.

    Raises:
        UserError: on every process, if it differs on one.
    """
    own = float(int(sha256(index)[:12], 16))  # 48 bits, which a float64 holds exactly
    if ranks.any(own != ranks.of_first(own)):
        raise UserError(
            f"{index} is not the same on all machines: run `dvc pull data/latents` where it is out of date"
        )
