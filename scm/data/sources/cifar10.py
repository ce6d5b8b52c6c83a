"""CIFAR-10's training images, from the python or the binary archive that its authors publish, packed or unpacked.

A batch holds images as rows of 3 x 32 x 32 bytes, red, green and blue one after the other. The python form keeps them
in pickles, which are read as data: nothing in them is executed.
"""

import hashlib
import io
import posixpath
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scm.data.reading.containers import list_files
from scm.data.reading.source import ImageSource, Wanted
from scm.errors import UserError
from scm.pickles.arrays import NumpyType, Python2Array
from scm.pickles.machine import Known, Python2Machine, Refused

SIDE, CLASSES = 32, 10
PIXELS = 3 * SIDE * SIDE
MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
"""MD5 of the archives, as https://www.cs.toronto.edu/~kriz/cifar.html prints them."""
PYTHON = tuple(f"data_batch_{number}" for number in range(1, 6))
BINARY = tuple(f"{name}.bin" for name in PYTHON)
METAS = ("batches.meta", "batches.meta.txt")
NO_BATCH = "no batch of training images"


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Reads the 50,000 training images (146 MiB) and the names of the classes, from an archive or its unpacked folder.

    Raises:
        UserError: a published archive that is not what was published, a batch that is missing or of another form.
    """
    path = wanted.path
    _check_md5(path)
    # Which of the two forms is it, and is all of it there?
    listing = list_files(path, stack)
    place: dict[str, int] = {}
    for number in range(len(listing.files)):
        base = posixpath.basename(listing.files.name(number))
        if base in (*PYTHON, *BINARY, *METAS) and base in place:
            raise UserError(f"{path} has {base} twice: set data.path to the folder that holds one of them")
        place[base] = number
    names = next((names for names in (PYTHON, BINARY) if names[0] in place), None)
    if names is None:
        raise UserError(
            f"{path} has no {PYTHON[0]} or {BINARY[0]}: set data.path to {' or '.join(MD5)}, or to the folder in it"
        )
    meta = METAS[0] if names is PYTHON else METAS[1]
    for name in (*names, meta):
        if name not in place:
            raise UserError(f"{path} has no {name}: download the archive again, or unpack all of it")
    # Read all batches, which fit into memory, and the names of the classes.
    read, read_names = (_read_python, _names_python) if names is PYTHON else (_read_binary, _names_binary)
    parts = [read(listing.read(listing.files, place[name]), f"{path}: {name}") for name in names]
    classes = read_names(listing.read(listing.files, place[meta]), f"{path}: {meta}")
    rows = np.concatenate([rows for rows, _ in parts])
    label_of = np.concatenate([labels for _, labels in parts])
    counts = [len(rows) for rows, _ in parts]
    if short := next((name for name, count in zip(names, counts, strict=True) if count < max(counts)), None):
        found = f"{short} has fewer images than another batch, and all have as many"
        raise UserError(f"{path}: {found}: download the archive again, or unpack all of it")
    starts = np.cumsum([0, *counts])

    def file_name(number: int) -> str:
        batch = int(np.searchsorted(starts, number, side="right")) - 1
        return f"{names[batch]} image {number - starts[batch]}"

    def load(number: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(rows[number].reshape(3, SIDE, SIDE).transpose(1, 2, 0)))

    if not wanted.labels:
        classes, label_of = [], np.full(len(rows), -1)
    taken = {place[name] for name in (*names, meta)}
    others = (listing.files.name(number) for number in range(len(listing.files)) if number not in taken)
    listing.skipped.extend({"file": name, "reason": NO_BATCH} for name in others)
    return ImageSource(str(path), classes, label_of, file_name, load, listing.skipped)


def _check_md5(path: Path) -> None:
    """Refuses an archive that has a published name and another content."""
    wanted = MD5.get(path.name)
    if wanted is None or not path.is_file():
        return
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "md5").hexdigest()
    if found != wanted:
        raise UserError(
            f"{path} is not the published archive (its MD5 is {found}, not {wanted}): download it again; if you have "
            "packed it yourself, unpack it and set data.path to the folder"
        )


def _checked(rows: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not len(rows):
        raise UserError(f"{name} holds no images: download the archive again")
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(wrong):
        found = f"image {wrong[0]} has the label {labels[wrong[0]]}, not one of 0 to {CLASSES - 1}"
        raise UserError(f"{name}: {found}: download the archive again")
    return rows, labels.astype(np.int64)


def _read_binary(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint8 [N, 3072] and labels int64 [N] of a batch in which one byte of label precedes each row."""
    if len(data) % (1 + PIXELS):
        raise UserError(f"{name} has {len(data):,} bytes, no multiple of {1 + PIXELS:,}: download the archive again")
    table = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return _checked(table[:, 1:], table[:, 0], name)


def _names_binary(data: bytes, name: str) -> list[str]:
    text = data.decode(errors="replace")
    return _ten([line.strip() for line in text.splitlines() if line.strip()], name)


def _read_python(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels, as in `_read_binary`, of a batch that is a pickled dictionary with `data` and `labels`."""
    content = _unpickled(data, name)
    rows, labels = content.get("data"), content.get("labels")
    if not isinstance(rows, Python2Array) or rows.value.dtype != np.uint8 or rows.value.shape[1:] != (PIXELS,):
        raise UserError(f"{name} holds no rows of {PIXELS:,} bytes: download the archive again")
    if not isinstance(labels, list) or {type(label) for label in labels} - {int} or len(labels) != len(rows.value):
        raise UserError(f"{name} does not hold a label for each image: download the archive again")
    return _checked(rows.value, np.array(labels, dtype=object), name)


def _names_python(data: bytes, name: str) -> list[str]:
    return _ten(_unpickled(data, name).get("label_names"), name)


def _ten(names: Any, name: str) -> list[str]:
    if not isinstance(names, list) or len(set(map(str, names))) != CLASSES or len(names) != CLASSES:
        raise UserError(f"{name} does not name {CLASSES} classes: download the archive again")
    return [str(entry) for entry in names]


def _unpickled(data: bytes, name: str) -> dict[str, Any]:
    try:
        content = Python2Machine(io.BytesIO(data), KNOWN).run()
    except Refused:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{name} is not pickled as CIFAR-10 is (nothing of it was run): download the archive again")
    return content


FUNCTIONS = {"numpy.core.multiarray._reconstruct": Python2Array, "numpy.dtype": NumpyType}
KNOWN = Known(FUNCTIONS, names=frozenset({"numpy.ndarray"}))
