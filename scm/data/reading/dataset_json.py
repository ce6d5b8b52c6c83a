"""The labels of EDM's, EDM2's and StyleGAN's data sets: dataset.json with {"labels": [["00000/img00000000.png", 3]]}.

Their tools put the images into folders of 1,000, which say nothing of the classes: only this file does.
"""

import json
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import Listing, shown
from scm.data.reading.images import IMAGE_FAULTS
from scm.data.reading.labels import is_label
from scm.errors import UserError

NAME = "dataset.json"
BYTES, BYTES_PER_FILE = 2**20, 4096
"""A dataset.json may have so many bytes, and so many more for each file beside it."""
CHUNKED = re.compile(r"(?:.*/)?(\d{5,6})/(?:img)?(\d{5,8})\.\w+")


def read_entries(listing: Listing, numbers: Sequence[int], path: Path) -> tuple[str, list[Any]] | None:
    """The name of the first of these files that has a key "labels", and what that key holds; None if there is none.

    Raises:
        UserError: a file that is no JSON or too large for its data set, labels that are null or no list.
    """
    for name, times in Counter(map(listing.files.name, numbers)).items():
        if times > 1:
            raise _fault(path, name, "is there twice", "pack the archive again with one of them")
    for number in numbers:
        name, size = listing.files.name(number), listing.files.sizes[number]
        if size > BYTES + BYTES_PER_FILE * len(listing.files):
            raise _fault(path, name, f"has {size:,} bytes, too many for {len(listing.files):,} files", "repair it")
        try:
            text = listing.read(listing.files, number)
        except IMAGE_FAULTS as error:
            raise _fault(path, name, f"cannot be read ({error})", "copy it again") from None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _fault(path, name, f"is not valid JSON ({error})", "copy it again") from None
        if not isinstance(content, dict) or "labels" not in content:
            continue
        if content["labels"] is None:
            raise _fault(path, name, "says that there are no labels (null)")
        if not isinstance(content["labels"], list):
            raise _fault(path, name, 'has no list of [file, label] under "labels"', "repair it")
        return name, content["labels"]
    return None


def labels_of(
    images: Catalogue, name: str, entries: list[Any], path: Path, without: Callable[[str], None]
) -> tuple[Catalogue, array]:
    """The images that have a label, and the labels.

    Args:
        images: all images, by their paths in the data set.
        name: path of the dataset.json.
        entries: its labels, which are emptied on the way to save memory.
        without: called with the name of each image that has no label.

    Raises:
        UserError: an entry that is no [file, label], that is there twice or names no image.
    """
    label_of = _parsed(entries, name, path)
    folder, kept, labels = posixpath.dirname(name), Catalogue(), array("i")
    for number in range(len(images)):
        image = images.name(number)
        label = label_of.pop(_key(image.removeprefix(f"{folder}/") if folder else image), None)
        if label is None:
            without(image)
            continue
        kept.add(image, images.places[number], images.sizes[number])
        labels.append(label)
    if label_of:
        more = f" (and {len(label_of) - 1:,} more)" if len(label_of) > 1 else ""
        problem = f"names {shown(next(iter(label_of)))}{more}, which is no image beside it"
        raise _fault(path, name, problem, "copy the data set again, or remove the entry")
    return kept, labels


def is_chunked(images: Catalogue) -> bool:
    """True if the images lie in folders of 1,000: 00012/img00012345.png of those tools, 12000/12345.png of FFHQ."""
    for number in range(len(images)):
        found = CHUNKED.fullmatch(images.name(number))
        if not found or int(found[1]) not in (int(found[2]) // 1000, int(found[2]) // 1000 * 1000):
            return False
    return True


def _parsed(entries: list[Any], name: str, path: Path) -> dict[str, int]:
    """Each file's label, by the file's path beside the dataset.json."""
    label_of: dict[str, int] = {}
    entries.reverse()
    for position in range(len(entries)):
        entry = entries.pop()
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise _fault(path, name, f"has an entry {position} that is no [file, label]", "repair it")
        file, label = entry
        if isinstance(label, list):
            raise _fault(path, name, f"gives {shown(file)} a vector as its label, not a class's number")
        if not is_label(label):
            text = "of an object" if isinstance(label, dict) else json.dumps(label)
            text = text if len(text) <= 40 else f"{text[:40]}..."
            raise _fault(path, name, f"gives {shown(file)} the label {text}, not a whole number from 0 on", "repair it")
        label_of[_key(file)] = label
        if len(label_of) != position + 1:
            raise _fault(path, name, f"names {shown(file)} twice", "remove one of the entries")
    return label_of


def _key(file: str) -> str:
    """A path without '.', doubled slashes and backslashes."""
    return "/".join(part for part in file.replace("\\", "/").split("/") if part not in ("", "."))


def _fault(path: Path, name: str, problem: str, remedy: str = "") -> UserError:
    other = "set data.labels: false"
    return UserError(f"{path}: {shown(name)} {problem}: {f'{remedy}, or {other}' if remedy else other}")
