"""Damages files that strangers may have made, and reads them: a value or one line, never another exception."""

import pickle
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from scm.base import weights
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import read_index, write_latents
from scm.errors import UserError
from scm.evaluation.statistics import read_statistics
from scm.generation.trained import load_selected
from scm.interop.teachers import read_teacher
from scm.params import load
from tests.support import originals
from tests.support.models import save_model
from tests.support.mutations import mutated
from tests.support.projects import make_project

SECONDS, MEBIBYTES = 20, 400
"""Most time for one file, and most growth of memory over all of a reader's files."""
SHAPES = originals.edm2_shapes(resolution=4, channels=1, classes=2, width=8, multipliers=(1, 1), blocks=1, attention=2)
EDM = {"resolution": 8, "channels": 1, "classes": 3, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}


class Reader(NamedTuple):
    """`make` writes a good file and returns its path, and `read` reads it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def own_model(folder: Path) -> Path:
    save_model(folder, "scd", t_mid=0.8)
    return folder / "models/scd/model.safetensors"


def own_teacher(folder: Path) -> Path:
    save_model(folder, "teacher", images=1024, sigma_rel=0.05)
    return folder / "models/teacher/model.safetensors"


def sampling(folder: Path) -> Path:
    return own_model(folder).with_name("sampling.json")


def edm2_pickle(folder: Path) -> Path:
    network = originals.edm2_network(originals.filled(SHAPES), channels_per_head=8)
    return originals.edm2_file(folder / "a-0000131-0.075.pkl", network)


def edm_pickle(folder: Path) -> Path:
    network = originals.edm_network(originals.filled(originals.edm_shapes(**EDM), 0.1))
    return originals.dump({"ema": network}, folder / "edm.pkl")


def statistics(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path, moments = folder / name, {"mu": np.zeros(6), "sigma": np.eye(6)}
        if path.suffix == ".npz":
            np.savez(path, **moments)  # type: ignore[arg-type]
        else:
            path.write_bytes(pickle.dumps({"fid": moments}))
        return path

    return make


def latents(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        random_values = np.random.default_rng(0)
        samples = ((f"{i:08d}", random_values.normal(size=(4, 2, 2)).astype(np.float32), i % 2) for i in range(8))
        write_latents(samples, folder / "latents", 4, {"classes": ["a", "b"], "codec": {"name": "identity"}})
        return folder / "latents" / name

    return make


def loaded(path: Path) -> Any:
    return LatentLoader(path.parent, seed=0, batch=4).batch_at(0)


READERS = {
    "safetensors, header and tensors": Reader(own_model, weights.load),
    "safetensors of a stranger": Reader(own_model, lambda path: weights.load_any(path, "make it", "make it again")),
    "selected model": Reader(own_model, lambda path: load_selected(path.parent)),
    "sampling.json": Reader(sampling, lambda path: load_selected(path.parent)),
    "teacher of scm": Reader(own_teacher, read_teacher),
    "EDM2's pickle": Reader(edm2_pickle, read_teacher),
    "EDM's pickle": Reader(edm_pickle, read_teacher),
    "statistics, .npz": Reader(statistics("a.npz"), lambda path: read_statistics(path, "fid", 6)),
    "statistics, .pkl": Reader(statistics("a.pkl"), lambda path: read_statistics(path, "fid", 6)),
    "params.yaml": Reader(make_project, load),
    "index of shards": Reader(latents("index.json"), lambda path: read_index(path.parent)),
    "index of latents": Reader(latents("index.json"), loaded),
    "labels of latents": Reader(latents("labels.npy"), loaded),
    "offsets of latents": Reader(latents("offsets.npy"), loaded),
    "shard of latents": Reader(latents("000000.tar"), loaded),
}


@pytest.mark.campaign
def test_a_damaged_file_is_read_or_refused(tmp_path, table):
    counted = table("readers", "file", "damaged", "refused in one line", "read", align="lrrr")
    for number, (name, reader) in enumerate(READERS.items()):
        (tmp_path / str(number)).mkdir()
        counted.add(name, *damaged(reader, tmp_path / str(number), 500))


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_a_few_damaged_files_are_read_or_refused(name, tmp_path):
    damaged(READERS[name], tmp_path, 20)


def damaged(reader: Reader, folder: Path, count: int) -> tuple[int, int, int]:
    """Reads `count` damaged copies of a reader's file; returns how many, how many were refused, and how many read."""
    path = reader.make(folder)
    whole, draws, counts = path.read_bytes(), random.Random(0), Counter()
    reader.read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.unlink()
        path.write_bytes(mutated(whole, draws))
        begun = time.monotonic()
        try:
            reader.read(path)
            counts["read"] += 1
        except UserError as error:
            assert str(error).isprintable() and str(folder) in str(error)
            counts["refused"] += 1
        except Exception:
            shutil.copy(path, folder / "culprit")
            raise
        assert time.monotonic() - begun < SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < MEBIBYTES
    return count, counts["refused"], counts["read"]
