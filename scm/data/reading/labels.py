"""Labels that are numbers: which numbers may be labels, and which classes they make; names that are no classes."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scm.errors import UserError

MAX_LABEL = 2**31 - 1
WORDS = re.compile(r"[-_./ ]+")
SPLIT = re.compile(
    r"(train|training|trainval|val|valid|validation|test|testing|eval|evaluation|dev)"
    r"([ ._-]?(set|data|images?|split|\d+))?"
)
NUMBERED = re.compile(r"(.*?)(\d{4,9})-of-(\d{4,9})(?:[^/\d][^/]*)?", re.DOTALL)
"""A file's number among many, as Hugging Face writes it; a short one may be part of a name."""
DOMAIN = re.compile(r"(?<![A-Za-z])([Tt]rain|[Tt]est|[Vv]al)(?=[A-Z](?![A-Za-z]))")
"""The split in trainA, beside which CycleGAN's data sets have trainB, testA and testB."""


IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages"})
COMPANIONS = frozenset(
    {
        "masks", "mask", "labels", "annotations", "segmentationclass", "segmentationobject", "groundtruth",
        "ground_truth", "gt", "depth", "thumbnails", "thumbs",
    }
)  # fmt: skip
"""Usual names of the folder of images, and of those that lie beside it, in small letters."""


def is_label(value: Any) -> bool:
    """True for whole numbers from 0 to MAX_LABEL; `true` and 3.0 are none."""
    return type(value) is int and 0 <= value <= MAX_LABEL


def is_split(name: str) -> bool:
    """True for the name of a part of a data set, such as train or val, of which there is another one beside it."""
    return bool(SPLIT.fullmatch(name.casefold()))


def refuse_mixed_splits(names: Sequence[str], path: Path) -> None:
    """Refuses files in whose paths different splits are named, such as pets-train-000.tar beside pets-val-000.tar."""
    found = {splits for name in names if (splits := _splits(name))}
    if len(found) < 2:
        return
    splits = sorted(set().union(*found))
    inside = {name.split("/")[0].lower() for name in names if "/" in name}
    away, there = "move the files of all but one away", "set data.path to one of their folders"
    remedy = there if inside.issuperset(splits) else away
    raise UserError(f"{path} holds the splits {', '.join(splits)} of a data set: {remedy}")


def refuse_missing(names: Iterable[str], path: Path) -> None:
    """Refuses files of which one is missing by their names, as train-00001-of-00003.tar is beside two others."""
    found: dict[tuple[str, str], set[int]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name):
            found.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (start, total), numbers in found.items():
        first = 1 if int(total) in numbers and 0 not in numbers else 0
        missing = next(number for number in range(first, first + len(numbers) + 1) if number not in numbers)
        if missing < first + int(total):
            name = f"{start}{missing:0{len(total)}}-of-{total}"
            remedy = "fetch it, or rename the others if they are all that you want"
            raise UserError(f"{path}: {name} is missing, by the names of the others: {remedy}")


def same_splits(names: Iterable[str]) -> list[list[str]]:
    """The names of folders that are splits of one data set, such as train and val, or trainA and testA, together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if is_split(name):
            groups.setdefault("", []).append(name)
        elif _splits(name):
            rest = (word for word in _words(name) if not is_split(word))
            groups.setdefault(" ".join(rest), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def images_beside_companions(names: Sequence[str]) -> str | None:
    """The folder of images, if the others hold its masks, labels or thumbnails."""
    images = [name for name in names if name.casefold() in IMAGES]
    others = [name for name in names if name.casefold() in COMPANIONS]
    return images[0] if len(images) == 1 and others and len(others) == len(names) - 1 else None


def _splits(name: str) -> frozenset[str]:
    return frozenset(word for word in _words(name) if is_split(word))


def _words(name: str) -> list[str]:
    return WORDS.split(DOMAIN.sub(r"\1 ", name).casefold())


def class_count(labels: Sequence[int], where: str) -> int:
    """The number of classes 0, 1, ... of which each has a label; refuses a gap. There is at least one label."""
    used, highest = set(labels), max(labels)
    missing = next(label for label in range(len(used) + 1) if label not in used)
    if missing < highest:
        gap = f"no image has the label {missing}, but one has {highest}"
        raise UserError(f"{where}: {gap}: count labels from 0 without gaps, or set data.labels: false")
    return highest + 1
