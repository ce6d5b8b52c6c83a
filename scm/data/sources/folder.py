"""Images in a folder, a .zip or a .tar, at any depth; their labels come from dataset.json or from class folders."""

import posixpath
import unicodedata
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from scm.data.reading import dataset_json
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import ARCHIVE_SUFFIXES, UNPACK, Listing, list_files, refuse_packed, shown
from scm.data.reading.images import NO_IMAGE, READ_SUFFIXES, is_image, loading
from scm.data.reading.labels import class_count, images_beside_companions, is_split, same_splits
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource, Wanted
from scm.errors import UserError


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the images among the files, in the order of their names, and each one's class.

    A dataset.json around all images, as EDM's tool writes it, says the classes; without one, class folders do.

    Raises:
        UserError: no images, a name that is there twice, a mixed or empty class, splits in place of classes, a
            dataset.json that does not fit the images, a path or link that leads outside, a damaged archive.
    """
    path = wanted.path
    listing = list_files(path, stack)
    images, others, skipped = Catalogue(), array("q"), listing.skipped
    for number in listing.files.by_name():
        name = listing.files.name(number)
        if not is_image(listing.head, listing.files, number):
            others.append(number)
            continue
        if len(images) and images.name(len(images) - 1) == name:
            raise UserError(f"{path}: the member {shown(name)} is there twice: pack the archive again with one of them")
        images.add(name, listing.files.places[number], listing.files.sizes[number])
    if not len(images):
        raise UserError(f"{path}: no images in it: {_remedy(path, [listing.files.name(number) for number in others])}")
    labels_file = _labels_file(listing, images, others, path) if wanted.labels else None
    for number in others:
        name = listing.files.name(number)
        holds_labels = labels_file is not None and name == labels_file[0]
        skipped.append({"file": name, "reason": "read for the labels" if holds_labels else NO_IMAGE})
    if not wanted.labels:
        _refuse_companions(*_class_folders(images, set()), path)
        classes, label_of = list[str](), array("i", [-1]) * len(images)
    elif labels_file is not None:
        images, label_of = _labelled(images, *labels_file, wanted, skipped)
        classes = [str(label) for label in range(class_count(label_of, f"{path}: {labels_file[0]}"))]
    else:
        folders = listing.folders | {posixpath.dirname(listing.files.name(number)) for number in others}
        classes, label_of = _classes(images, folders, path)
    load = loading(listing.read, images, wanted.max_pixels)
    return ImageSource(str(path), classes, label_of, images.name, load, skipped)


def _remedy(path: Path, others: list[str]) -> str:
    """What to do where no file is an image; `others` are the files."""
    for name in others:
        if name.lower().endswith((*ARCHIVE_SUFFIXES, *UNPACK)) and not path.is_dir():
            return f"unpack it, since {shown(name)} in it is not read"
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            return f"set data.path to {path / name}"
        refuse_packed(path / name, path)
        if name.endswith(".parquet"):
            return "set data.source: parquet"
        if name.endswith(".npy"):
            return (
                f"{shown(name)} is a latent of EDM2's tool; set data.path to the images that it was made from, and "
                "codec.name: edm2_sd_vae"
            )
    return f"put {', '.join(READ_SUFFIXES)} files there"


def _labels_file(
    listing: Listing, images: Catalogue, others: Sequence[int], path: Path
) -> tuple[str, list[Any]] | None:
    """Name and entries of the dataset.json that lies around all images, the outermost one; None if there is none."""
    first, last = images.name(0), images.name(len(images) - 1)
    around = []
    for number in others:
        folder, base = posixpath.split(listing.files.name(number))
        inside = f"{folder}/" if folder else ""
        if base == dataset_json.NAME and first.startswith(inside) and last.startswith(inside):
            around.append(number)
    around.sort(key=lambda number: len(listing.files.name(number)))
    found = dataset_json.read_entries(listing, around, path)
    if found is None and dataset_json.is_chunked(images):
        problem = f"the images are numbered as EDM's tool does it, but no {dataset_json.NAME} has their labels"
        raise UserError(f"{path}: {problem}: put it there, or set data.labels: false")
    return found


def _labelled(
    images: Catalogue, name: str, entries: list[Any], wanted: Wanted, skipped: Skipped
) -> tuple[Catalogue, array]:
    """The images that the dataset.json gives a label, and the labels; the others are refused or left out."""
    reason = f"{shown(name)} gives it no label"

    def without(image: str) -> None:
        if wanted.on_bad_image != "skip":
            remedy = "add it, or set data.on_bad_image: skip or data.labels: false"
            raise UserError(f"{wanted.path}: {shown(image)}: {reason}: {remedy}")
        skipped.append({"file": image, "reason": reason})

    kept, label_of = dataset_json.labels_of(images, name, entries, wanted.path, without)
    if not len(kept):
        raise UserError(f"{wanted.path}: {shown(name)} gives no image a label: set data.labels: false")
    return kept, label_of


def _classes(images: Catalogue, folders: set[str], path: Path) -> tuple[list[str], array]:
    """Names of the class folders, and each image's label; refuses images outside of them, and empty classes."""
    classes, prefix = _class_folders(images, folders)
    _refuse_splits(classes, prefix, images, path)
    _refuse_companions(classes, prefix, path)
    # Each image belongs to the class folder that it is in, at any depth.
    label_of, labels = {name: label for label, name in enumerate(classes)}, array("i")
    inner: list[set[str]] = [set() for _ in classes]
    for number in range(len(images)):
        *around, _ = images.name(number).removeprefix(prefix).split("/")
        if not around:
            kind = "lies beside the class folders" if classes else "lies in no class folder"
            name = shown(images.name(number))
            raise UserError(f"{path}: {name} {kind}: move it into one, or set data.labels: false")
        label = label_of[around[0]]
        labels.append(label)
        inner[label].update(filter(is_split, around[1:]))
    _refuse_inner_splits(inner, path)
    filled = set(labels)
    for label, name in enumerate(classes):
        if label not in filled:
            raise UserError(f"{path}: the class folder {shown(prefix + name)} has no images: fill it or delete it")
    _refuse_twins(classes, prefix, path)
    return classes, labels


def _class_folders(images: Catalogue, folders: set[str]) -> tuple[list[str], str]:
    """The class folders, and the path of the folder that they lie in: "", or that of single folders around all."""
    folders = folders | {posixpath.dirname(images.name(number)) for number in range(len(images))}
    ends = images.name(0), images.name(len(images) - 1)  # in the order of names, what these share all images share
    top = sorted({folder.split("/")[0] for folder in folders if folder})
    classes, prefix = top, ""
    while len(classes) == 1:
        inside = f"{prefix}{classes[0]}/"
        inner = sorted({folder[len(inside) :].split("/")[0] for folder in folders if folder.startswith(inside)})
        # A folder with images of its own is a class, except the outermost one: images beside classes are refused later.
        if not inner or not all(name.startswith(inside) for name in ends):
            break
        if prefix and any("/" not in images.name(number)[len(inside) :] for number in range(len(images))):
            break
        classes, prefix = inner, inside
    return classes, prefix


def _refuse_splits(classes: list[str], prefix: str, images: Catalogue, path: Path) -> None:
    """Refuses the splits of a data set, such as train/ and val/, in place of its classes."""
    groups = same_splits(classes)
    if not groups:
        return
    insides = (images.name(number).removeprefix(prefix) for number in range(len(images)))
    around = {inside.split("/")[0] for inside in insides if inside.count("/") > 1}
    splits = sorted(chain(*groups))
    if len(splits) < len(classes):
        splits = next((group for group in groups if around.issuperset(group)), [])
    if splits:
        found = f"{', '.join(shown(prefix + name) for name in splits)} are splits of a data set, not classes"
        raise UserError(f"{path}: {found}: {_split_remedy(splits, prefix, path)}, or rename folders that are classes")


def _split_remedy(splits: list[str], prefix: str, path: Path) -> str:
    trains = [prefix + name for name in splits if "train" in name.casefold()] or [prefix + splits[0]]
    others = [prefix + name for name in splits if prefix + name not in trains]
    if len(trains) == 1 or not others:
        return f"set data.path to {path / trains[0]}" if path.is_dir() else f"pack {trains[0]} alone"
    return f"move {', '.join(others)} away" if path.is_dir() else f"pack {', '.join(trains)} alone"


def _refuse_companions(classes: list[str], prefix: str, path: Path) -> None:
    """Refuses the masks, labels or thumbnails of the images beside them."""
    if folder := images_beside_companions(classes):
        found = f"{', '.join(shown(prefix + name) for name in classes)} are parts of a data set, not classes"
        raise UserError(f"{path}: {found}: {_split_remedy([folder], prefix, path)}, or rename folders that are classes")


def _refuse_inner_splits(inner: list[set[str]], path: Path) -> None:
    """Refuses splits inside of the classes, as cat/train and cat/test; `inner` has those of each class."""
    splits = sorted(inner[0]) if inner and all(names == inner[0] for names in inner) else []
    if len(splits) > 1:
        train = next((name for name in splits if "train" in name.casefold()), splits[0])
        others = ", ".join(name for name in splits if name != train)
        remedy = f"move {others} of each class away" if path.is_dir() else f"pack {train} of each class alone"
        problem = f"{', '.join(splits)} in each class are splits of a data set"
        raise UserError(f"{path}: {problem}: {remedy}, or rename these folders")


def _refuse_twins(classes: list[str], prefix: str, path: Path) -> None:
    """Refuses class folders that macOS or Windows would merge, or that look alike: one of them is a slip."""
    seen: dict[str, str] = {}
    for name in classes:
        twin = seen.setdefault(_likeness(name), name)
        if twin != name:
            both = f"the class folders {prefix + twin!a} and {prefix + name!a}"
            problem = "differ in case or in the form of letters, or in what nobody sees, alone"
            raise UserError(f"{path}: {both} {problem}: put them together")


def _likeness(name: str) -> str:
    """The name without case, forms of letters, characters without a shape, and spaces and dots at the end."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return "".join(char for char in folded if unicodedata.category(char) != "Cf").rstrip(" .\u00a0")
