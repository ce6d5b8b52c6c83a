"""Before a training: what this machine lacks of data/latents is fetched from `runtime.shards`.

This comes before the stage's fingerprint is taken, which hashes data/latents where dvc.lock does not know it, and
before the processes of several machines join, who would not wait for each other for hours.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from scm.errors import UserError
from scm.fingerprint import made_by_stages

FOLDER = "data/latents"
STAGES = ("train_teacher", "train_student")
"""Those that read it."""


def fetch_latents(root: Path, shards: str | None, name: str) -> None:
    """Completes data/latents, by all processes of this machine together; one of them says how far it is.

    Args:
        shards: `runtime.shards`; a path may be relative to the project.
        name: of the stage.

    Raises:
        UserError: something cannot be had, or is not what index.json or dvc.lock say.
    """
    if shards is None:
        return
    from scm.data.remote import THREADS, fetch_index, fetch_missing

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
    files = {"nfiles": len(index["shards"]) + 3, "size": (folder / "index.json").stat().st_size}
    files["size"] += sum(shard["bytes"] for shard in index["shards"]) + 2 * _array_size(index["count"])
    for key, value in files.items():
        if known.get(key, value) != value:
            told = f"{known.get('nfiles'):,} files of {known.get('size'):,} bytes together"
            found = f"{files['nfiles']:,} files of {files['size']:,}"
            raise UserError(
                f"{folder}/index.json describes {found}, but {FOLDER} in dvc.lock is {told}: delete {folder} and set "
                "runtime.shards to a copy of what dvc.lock means, or bring dvc.lock from where they were made"
            )


def _array_size(count: int) -> int:
    """Bytes of an int64 [count] as .npy."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    return header.tell() + 8 * count
