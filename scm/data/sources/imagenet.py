"""ImageNet as ILSVRC2012_img_train.tar: a tar that holds one tar for each class, read without unpacking."""

import io
import posixpath
import re
from array import array
from contextlib import ExitStack
from pathlib import Path

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import ARCHIVE_FAULTS, Part, shown, tar_members, tar_reader, unreadable
from scm.data.reading.images import loading
from scm.data.reading.source import ImageSource, Wanted
from scm.errors import UserError

ELSE = "set data.source to folder for images in class folders, to webdataset for shards"


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the images class by class; the classes are the WordNet numbers (n01440764, ...) in their order.

    Raises:
        UserError: the file is missing or damaged, or it is no tar of tars named after classes.
    """
    path = wanted.path
    if not path.is_file():
        raise UserError(f"{path} is not a file: set data.path to ILSVRC2012_img_train.tar, or {ELSE}")
    handle = stack.enter_context(path.open("rb"))
    try:
        tars = _class_tars(path, handle)
    except ARCHIVE_FAULTS as error:
        raise unreadable(path, error) from error
    # List the members of each class's tar; photographs become images, the rest is noted.
    images, label_of, skipped = Catalogue(), array("i"), []
    for label, (wnid, (place, size)) in enumerate(sorted(tars.items())):
        members = _members(path, handle.fileno(), f"{wnid}.tar", place, size)
        before = len(images)
        for number in members.by_name():
            name = f"{wnid}.tar/{members.name(number)}"
            if posixpath.splitext(name)[1].lower() not in (".jpeg", ".jpg"):
                skipped.append({"file": name, "reason": "not an image file"})
                continue
            if len(images) and images.name(len(images) - 1) == name:
                raise UserError(f"{path}: {shown(name)} is there twice: download the archive again")
            images.add(name, members.places[number], members.sizes[number])
        if len(images) == before:
            raise UserError(f"{path}: the class {wnid} has no images: download the archive again")
        label_of.extend([label if wanted.labels else -1] * (len(images) - before))
    load = loading(tar_reader(handle), images, wanted.max_pixels)
    return ImageSource(str(path), sorted(tars) if wanted.labels else [], label_of, images.name, load, skipped)


def _class_tars(path: Path, handle: io.BufferedReader) -> dict[str, tuple[int, int]]:
    """Place and size of each class's tar, by its WordNet number."""
    tars = {}
    for info in tar_members(handle):
        found = re.fullmatch(r"(?:\./)?(n\d{8})\.tar", info.name)
        if not found or not info.isreg() or info.issparse():
            raise UserError(f"{path}: the member {shown(info.name)} is no class's tar such as n01440764.tar: {ELSE}")
        if found[1] in tars:
            raise UserError(f"{path}: {info.name} is there twice: download the archive again")
        tars[found[1]] = (info.offset_data, info.size)
    if not tars:
        raise UserError(f"{path} is empty: download it again")
    return tars


def _members(path: Path, descriptor: int, name: str, place: int, size: int) -> Catalogue:
    """The files of one class's tar; their places count from the start of the whole archive."""
    members = Catalogue()
    try:
        for info in tar_members(io.BufferedReader(Part(descriptor, place, size), 2**16)):
            if info.isreg() and not info.issparse():
                members.add(info.name, place + info.offset_data, info.size)
    except ARCHIVE_FAULTS as error:
        raise UserError(f"{path}: {name} cannot be read as an archive ({error}): download the archive again") from error
    return members
