"""CIFAR-10 in the two forms in which it is published, made small, and tars in memory."""

import io
import pickle
import tarfile
from typing import ClassVar

import numpy as np

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNT = 20
"""Images of the whole set; of each batch COUNT / 5, of each class COUNT / 10."""


def cifar():
    """Pixels uint8 [COUNT, 32, 32, 3] and labels in which neighbours differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    return pixels, [(3 * number) % 10 for number in range(COUNT)]


def batches():
    """(number from 1, rows uint8 [N, 3072] with red, green, blue one after the other, labels) of each batch."""
    pixels, labels = cifar()
    rows = np.concatenate([pixels[..., channel].reshape(COUNT, -1) for channel in range(3)], axis=1)
    size = COUNT // 5
    for number in range(5):
        part = slice(number * size, (number + 1) * size)
        yield number + 1, rows[part], labels[part]


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text and bytes as Python 2's cPickle wrote both, as in the published files."""

    def _string(self, content: bytes) -> None:
        short = len(content) < 256
        self.write((b"U" + bytes([len(content)]) if short else b"T" + len(content).to_bytes(4, "little")) + content)
        self.memoize(content)

    dispatch: ClassVar = {
        **pickle._Pickler.dispatch,  # type: ignore[attr-defined]
        bytes: lambda self, value: self._string(value),
        str: lambda self, value: self._string(value.encode("latin-1")),
    }


def python2(value):
    """A pickle of protocol 2 in which numpy's modules have the names of that time."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python_form():
    files = {"readme.html": b"<html>", "batches.meta": python2({"num_vis": 3072, "label_names": NAMES})}
    for number, rows, labels in batches():
        names = [f"image_{number}_{place}.png" for place in range(len(rows))]
        batch = {"batch_label": f"training batch {number} of 5", "labels": labels, "data": rows, "filenames": names}
        files[f"data_batch_{number}"] = python2(batch)
    return {f"cifar-10-batches-py/{name}": content for name, content in files.items()}


def binary_form():
    files = {"readme.html": b"<html>", "batches.meta.txt": "".join(f"{name}\n" for name in [*NAMES, ""]).encode()}
    for number, rows, labels in batches():
        files[f"data_batch_{number}.bin"] = b"".join(
            bytes([label]) + row.tobytes() for label, row in zip(labels, rows, strict=True)
        )
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def tar(files):
    return tar_of(*files.items())


def tar_of(*members):
    """A tar, in which a name may stand twice."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
