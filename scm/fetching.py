"""Before a training: what this machine lacks of data/latents is fetched from `runtime.shards`.

This comes before the stage's fingerprint is taken, which hashes data/latents where dvc.lock does not know it, and
before the processes of several machines join, who would not wait for each other for hours.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from scm.data.remote import THREADS, fetch_index, fetch_missing
from scm.data.shards import INDEX, LABELS, OFFSETS
from scm.errors import UserError
from scm.fingerprint import made_by_stages

FOLDER = "data/latents"


def fetch_latents(root: Path, shards: str, name: str) -> None:
    """Completes data/latents, by all processes of this machine together; one of them says how far it is.

    Args:
        shards: `runtime.shards`; a path may be relative to the project.
        name: of the stage.

    Raises:
        UserError: something cannot be had, or is not what index.json or dvc.lock say.
    """
    address = shards if "://" in shards else str(root / Path(shards).expanduser())
    folder, neighbours = root / FOLDER, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def say(text: str) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"[{name}] {text}", flush=True)

    _check_locked(root, folder, fetch_index(folder, address, say))
    fetch_missing(folder, address, say, max(1, THREADS // neighbours))


def _check_locked(root: Path, folder: Path, index: dict[str, Any]) -> None:
    """Compares an index with what dvc.lock knows of data/latents: how many files these are, and their bytes together.

    The hash in dvc.lock follows from the MD5 of every file, and would cost reading all of them again. Other data of
    exactly that size pass; on machines that train together TrainingData sees to it that they have the same index.
    """
    known = made_by_stages(root).get(FOLDER, {})
    if not {"nfiles", "size"} <= known.keys():
        return
    arrays = 2 * _array_size(index["count"])
    size = (folder / INDEX).stat().st_size + sum(shard["bytes"] for shard in index["shards"]) + arrays
    files = len(index["shards"]) + len((INDEX, LABELS, OFFSETS))
    if (files, size) != (known["nfiles"], known["size"]):
        told = f"{known['nfiles']:,} files of {known['size']:,}"
        found = f"{folder / INDEX} describes {files:,} files of {size:,} bytes together"
        remedy = f"delete {folder} and set runtime.shards to a copy of what dvc.lock means"
        raise UserError(
            f"{found}, but {FOLDER} in dvc.lock is {told}: {remedy}, or take the dvc.lock that belongs to these data"
        )


def _array_size(count: int) -> int:
    """Bytes of an int64 [count] as .npy."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    return header.tell() + 8 * count
