"""ImageNet as ILSVRC2012_img_train.tar: a tar that holds one tar for each class, read without unpacking."""

import re
from array import array
from contextlib import ExitStack
from pathlib import Path

from scm.base.litter import is_litter
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import (
    ARCHIVE_FAULTS,
    HIDDEN,
    SPECIAL,
    inner_name,
    refuse_packed,
    shown,
    tar_head_reader,
    tar_reader,
    unreadable,
)  # fmt: skip
from scm.data.reading.images import NO_IMAGE, is_image, loading
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource, Wanted
from scm.data.reading.tars import FILE, FOLDER, HARD_LINK, LINK, Member, tar_members
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
    refuse_packed(path, path)
    skipped = Skipped()
    descriptor = stack.enter_context(path.open("rb", buffering=0)).fileno()
    try:
        tars = _class_tars(path, descriptor, skipped)
    except ARCHIVE_FAULTS as error:
        raise unreadable(path, error) from error
    # List the members of each class's tar; photographs become images, the rest is noted.
    images, label_of, head = Catalogue(), array("i"), tar_head_reader(descriptor)
    for label, (wnid, tar) in enumerate(sorted(tars.items())):
        members = _members(path, descriptor, tar, skipped)
        before = len(images)
        for number in members.by_name():
            name = members.name(number)
            if not is_image(head, members, number):
                skipped.append({"file": name, "reason": NO_IMAGE})
                continue
            if len(images) and images.name(len(images) - 1) == name:
                raise UserError(f"{path}: {shown(name)} is there twice: download the archive again")
            images.add(name, members.places[number], members.sizes[number])
        if len(images) == before:
            raise UserError(f"{path}: the class {wnid} has no images: download the archive again")
        label_of.extend([label if wanted.labels else -1] * (len(images) - before))
    load = loading(tar_reader(descriptor), images, wanted.max_pixels)
    return ImageSource(str(path), sorted(tars) if wanted.labels else [], label_of, images.name, load, skipped)


def _class_tars(path: Path, descriptor: int, skipped: Skipped) -> dict[str, Member]:
    """Each class's tar, by its WordNet number."""
    tars: dict[str, Member] = {}
    for member in tar_members(descriptor):
        name = inner_name(member.name, path)
        if is_litter(name):
            skipped.append({"file": name, "reason": HIDDEN})
            continue
        if member.kind == FOLDER and not name:  # "./", of a tar of everything in a folder
            continue
        found = re.fullmatch(r"(n\d{8})\.tar", name)
        if not found or member.kind != FILE:
            raise UserError(f"{path}: the member {shown(member.name)} is no class's tar such as n01440764.tar: {ELSE}")
        if found[1] in tars:
            raise UserError(f"{path}: {name} is there twice: download the archive again")
        tars[found[1]] = member
    if not tars:
        raise UserError(f"{path} is empty: download it again")
    return tars


def _members(path: Path, descriptor: int, tar: Member, skipped: Skipped) -> Catalogue:
    """The files of one class's tar, by their names behind the tar's; their places count in the whole archive."""
    members, outer = Catalogue(), inner_name(tar.name, path)
    try:
        for member in tar_members(descriptor, tar.place, tar.size):
            inner = inner_name(member.name, path)
            if member.kind == FOLDER:
                continue
            if member.kind == FILE and not is_litter(inner):
                members.add(f"{outer}/{inner}", member.place, member.size)
            else:
                reason = "a link" if member.kind in (LINK, HARD_LINK) else SPECIAL
                skipped.append({"file": f"{outer}/{inner}", "reason": HIDDEN if is_litter(inner) else reason})
    except ARCHIVE_FAULTS as error:
        raise UserError(
            f"{path}: {outer} cannot be read as an archive ({error}): download the archive again"
        ) from error
    return members
