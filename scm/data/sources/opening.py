"""Where images come from: the value of data.source to a `Source`.

The same files give the same images, keys and classes whether they lie in a folder, a zip or a tar.
"""

import posixpath
import unicodedata
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scm.data.sources.catalogue import Catalogue
from scm.data.sources.cifar10 import open_cifar10
from scm.data.sources.containers import ARCHIVE_SUFFIXES, Listing, list_files, shown
from scm.data.sources.imagenet import open_imagenet
from scm.data.sources.images import Source, decode
from scm.data.sources.webshards import open_webshards
from scm.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")


@dataclass(frozen=True)
class Wanted:
    """What is to be read, from the section `data` of params.yaml.

    Attributes:
        source: digits (needs none of the others), folder, cifar10, imagenet or webdataset.
        path: a folder or an archive.
        labels: False = the images get no labels.
        max_pixels: images that claim more are refused undecoded.
        on_bad_image: "error" = a sample without its label or its image stops the listing; "skip" = it is left out.
    """

    source: str
    path: Path
    labels: bool
    max_pixels: int
    on_bad_image: str


def open_source(wanted: Wanted) -> Source:
    """Lists the images of a source without decoding any.

    Raises:
        UserError: nothing to read, a mixed or empty class, a path or link that leads outside, a damaged archive.
    """
    path, labels, max_pixels = wanted.path, wanted.labels, wanted.max_pixels
    with ExitStack() as stack:
        match wanted.source:
            case "digits":
                source = _digits()
            case "folder":
                source = _arrange(list_files(path, stack), path, labels, max_pixels)
            case "cifar10":
                source = open_cifar10(path, labels)
            case "imagenet":
                source = open_imagenet(path, labels, max_pixels, stack)
            case "webdataset":
                source = open_webshards(path, labels, max_pixels, skip=wanted.on_bad_image == "skip")
            case _:
                raise ValueError(f"unknown source {wanted.source!r}")
        source.resources = stack.pop_all()
    return source


def _digits() -> Source:
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(flat) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Source(
        name="digits",
        classes=[str(digit) for digit in range(10)],
        labels=np.asarray(labels),
        file_name=lambda number: f"digit {number}",
        load=lambda number: Image.fromarray(pixels[number]),
    )


def _arrange(listing: Listing, path: Path, labels: bool, max_pixels: int) -> Source:
    """The images among the files, in the order of their names, and each one's class."""
    images, others = Catalogue(), []
    for number in listing.files.by_name():
        name = listing.files.name(number)
        if not _is_image(name):
            others.append(name)
            continue
        if len(images) and images.name(len(images) - 1) == name:
            raise UserError(f"{path}: the member {shown(name)} is there twice: pack the archive again with one of them")
        images.add(name, listing.files.places[number], listing.files.sizes[number])
    if not len(images):
        archives = [name for name in others if name.lower().endswith(ARCHIVE_SUFFIXES)]
        remedy = (
            f"set data.path to {path / archives[0]}" if archives else f"put {', '.join(IMAGE_SUFFIXES)} files there"
        )
        raise UserError(f"{path}: no images in it: {remedy}")
    folders = listing.folders | {posixpath.dirname(name) for name in others}
    classes, label_of = _classes(images, folders, path) if labels else ([], array("i", [-1]) * len(images))
    read = listing.read

    def load(number: int) -> Image.Image:
        return decode(lambda: read(images, number), images.sizes[number], max_pixels)

    skipped = [{"file": name, "reason": "not an image file"} for name in others]
    return Source(str(path), classes, label_of, images.name, load, skipped)


def _classes(images: Catalogue, folders: set[str], path: Path) -> tuple[list[str], array]:
    """Names of the class folders, and each image's label; refuses mixed and empty classes."""
    folders = folders | {posixpath.dirname(images.name(number)) for number in range(len(images))}
    top = sorted({folder.split("/")[0] for folder in folders if folder})
    inner = sorted({folder.split("/")[1] for folder in folders if folder.count("/")})
    wrapped = len(top) == 1 and bool(inner) and all("/" in images.name(number) for number in range(len(images)))
    classes, prefix = (inner, f"{top[0]}/") if wrapped else (top, "")
    label_of, labels = {name: label for label, name in enumerate(classes)}, array("i")
    for number in range(len(images)):
        inside = images.name(number).removeprefix(prefix)
        if "/" not in inside:
            kind = "lies beside the class folders" if classes else "lies in no class folder"
            name = shown(images.name(number))
            raise UserError(f"{path}: {name} {kind}: move it into one, or set data.labels: false")
        labels.append(label_of[inside.split("/")[0]])
    filled = set(labels)
    for label, name in enumerate(classes):
        if label not in filled:
            raise UserError(f"{path}: the class folder {shown(prefix + name)} has no images: fill it or delete it")
    _refuse_twins(classes, prefix, path)
    return classes, labels


def _refuse_twins(classes: list[str], prefix: str, path: Path) -> None:
    """Class folders that a Mac or a Windows machine would take for one: the data would depend on where they lay."""
    seen: dict[str, str] = {}
    for name in classes:
        twin = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if twin != name:
            both = f"{prefix + twin!a} and {prefix + name!a}"
            raise UserError(
                f"{path}: the class folders {both} differ in case or in the form of letters alone: put them together"
            )


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES
