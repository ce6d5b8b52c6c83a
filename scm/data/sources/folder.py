"""Images in a folder, a .zip or a .tar: with labels one folder for each class, without labels at any depth."""

import posixpath
import unicodedata
from array import array
from contextlib import ExitStack
from pathlib import Path

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import ARCHIVE_SUFFIXES, list_files, shown
from scm.data.reading.images import NO_IMAGE, READ_SUFFIXES, is_image, loading
from scm.data.reading.source import ImageSource, Wanted
from scm.errors import UserError


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the images among the files, in the order of their names, and each one's class.

    Raises:
        UserError: no images, a name that is there twice, a mixed or empty class, a path or link that leads outside, a
            damaged archive.
    """
    path = wanted.path
    listing = list_files(path, stack)
    images, others = Catalogue(), []
    for number in listing.files.by_name():
        name = listing.files.name(number)
        if not is_image(listing.head, listing.files, number):
            others.append(name)
            continue
        if len(images) and images.name(len(images) - 1) == name:
            raise UserError(f"{path}: the member {shown(name)} is there twice: pack the archive again with one of them")
        images.add(name, listing.files.places[number], listing.files.sizes[number])
    if not len(images):
        archives = [name for name in others if name.lower().endswith(ARCHIVE_SUFFIXES)]
        suffixes = ", ".join(READ_SUFFIXES)
        remedy = f"set data.path to {path / archives[0]}" if archives else f"put {suffixes} files there"
        raise UserError(f"{path}: no images in it: {remedy}")
    folders = listing.folders | {posixpath.dirname(name) for name in others}
    classes, label_of = _classes(images, folders, path) if wanted.labels else ([], array("i", [-1]) * len(images))
    load = loading(listing.read, images, wanted.max_pixels)
    listing.skipped.extend({"file": name, "reason": NO_IMAGE} for name in others)
    return ImageSource(str(path), classes, label_of, images.name, load, listing.skipped)


def _classes(images: Catalogue, folders: set[str], path: Path) -> tuple[list[str], array]:
    """Names of the class folders, and each image's label; refuses images outside of them, and empty classes."""
    # Class folders are the top level, or the second one if a single folder wraps everything.
    folders = folders | {posixpath.dirname(images.name(number)) for number in range(len(images))}
    top = sorted({folder.split("/")[0] for folder in folders if folder})
    inner = sorted({folder.split("/")[1] for folder in folders if folder.count("/")})
    wrapped = len(top) == 1 and bool(inner) and all("/" in images.name(number) for number in range(len(images)))
    classes, prefix = (inner, f"{top[0]}/") if wrapped else (top, "")
    # Each image belongs to the class folder that it is in, at any depth.
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
    """Refuses class folders that macOS or Windows would merge: the data would depend on the file system."""
    seen: dict[str, str] = {}
    for name in classes:
        twin = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if twin != name:
            both = f"the class folders {prefix + twin!a} and {prefix + name!a}"
            raise UserError(f"{path}: {both} differ in case or in the form of letters alone: put them together")
