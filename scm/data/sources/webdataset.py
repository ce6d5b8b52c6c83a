"""WebDataset shards as a source: tars in which consecutive files with one key are samples.

The key ends at the first dot of a file's own name. A sample is an image with a label: a whole number in a .cls, or
{"label": 3} or {"cls": 3} in a .json, where "class_name" may give the class's name. The last suffix says what a file
is. So photo.v2.001.png goes with photo.v2.001.cls, though "photo" is the key of all photographs, and x.input.png with
x.output.cls, which are alone with their key. All that is no part of a sample is noted.
"""

import json
import posixpath
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from scm.base.litter import is_litter
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import (
    ARCHIVE_FAULTS,
    HEAD_BYTES,
    HIDDEN,
    SPECIAL,
    UNPACK,
    inner_name,
    list_files,
    refuse_packed,
    shown,
    ungzip,
    unnamed_file,
    unreadable,
)  # fmt: skip
from scm.data.reading.images import SUFFIXES, loading, looks_like_image
from scm.data.reading.labels import refuse_missing, refuse_mixed_splits
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource, Wanted
from scm.data.reading.tars import FILE, FOLDER, HARD_LINK, LINK, read_at, tar_members
from scm.data.shards.shards import INDEX, check_sizes, read_index, verify
from scm.errors import UserError

SHARDS = (".tar", ".tar.gz", ".tgz")
PACKED = (*(f".tar{suffix}" for suffix in UNPACK if suffix != ".gz"), ".txz", ".tzst", ".tbz2", ".tbz")
FIRST = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of images, from the one that counts if a sample has its image in several forms."""
LABELS = (".cls", ".json")
LABEL_BYTES = 2**20
"""Longest .cls or .json that is read, in bytes."""
MAX_LABEL = 2**31 - 1
NAMES = "classes.txt"
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
WITHOUT_LABEL, NO_NUMBER = "an image without a label", "no whole number from 0 on"
UNUSED, FURTHER = "neither an image nor the label of one", "a further image of its sample"
NO_SHARD, EMPTY = "not a shard", "an empty shard"


class _Shard(NamedTuple):
    """A shard, and where its tar begins in the source's temporary file if it was unpacked there."""

    path: Path
    name: str
    start: int | None = None


class _File(NamedTuple):
    """A file of a shard: its name, the name without the last suffix, that suffix in small letters, and its place."""

    name: str
    stem: str
    suffix: str
    place: int
    size: int


@dataclass
class _Samples:
    """The samples listed so far."""

    skip: bool
    labelled: bool
    images: Catalogue = field(default_factory=Catalogue)
    labels: array = field(default_factory=lambda: array("i"))
    starts: list[int] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    names: dict[int, str] = field(default_factory=dict)

    def note(self, shard: _Shard, name: str, reason: str) -> None:
        self.skipped.append({"file": f"{shard.name}/{name}" if name else shard.name, "reason": reason})

    def leave_out(self, shard: _Shard, name: str, reason: str, remedy: str) -> None:
        if not self.skip:
            raise UserError(f"{shard.path}: {shown(name)}: {reason}: {remedy}, or set data.on_bad_image: skip")
        self.note(shard, name, reason)


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the samples shard by shard, in the order in which they lie there.

    Classes are called 0, 1, ... unless the folder has a classes.txt (a name on each line), the .json files name them,
    or the shards were written by this program; these are compared with their index first. With on_bad_image "skip",
    samples without an image or a usable label are left out and noted; otherwise the first one is refused.

    Raises:
        UserError: nothing to read, a damaged shard, an incomplete sample, labels that do not fit the classes.
    """
    path = wanted.path
    listed = _Samples(skip=wanted.on_bad_image == "skip", labelled=wanted.labels)
    found, names = _shards(path, listed)
    plain = unnamed_file(stack) if any(map(_is_packed, found)) else None
    shards = []
    for shard in found:
        listed.starts.append(len(listed.images))
        try:
            if plain and _is_packed(shard):
                start = plain.tell()
                _list_shard(listed, shard, plain.fileno(), start, ungzip(shard.path, plain))
                shards.append(shard._replace(start=start))
            else:
                shards.append(shard)
                with shard.path.open("rb") as handle:
                    _list_shard(listed, shard, handle.fileno(), 0, None)
        except ARCHIVE_FAULTS as error:
            raise unreadable(shard.path, error) from error
    images = listed.images
    if not len(images):
        raise UserError(f"{path}: {_why_empty(listed)}")
    classes = _classes(listed, names, path) if wanted.labels else []

    def shard_of(number: int) -> _Shard:
        return shards[bisect_right(listed.starts, number) - 1]

    def read(files: Catalogue, number: int) -> bytes:
        shard, place, size = shard_of(number), files.places[number], files.sizes[number]
        if plain and shard.start is not None:
            return read_at(plain.fileno(), place, size)
        with shard.path.open("rb", buffering=0) as handle:  # each time: a process may not open thousands of files
            return read_at(handle.fileno(), place, size)

    def file_name(number: int) -> str:
        return f"{shard_of(number).name}/{images.name(number)}"

    load = loading(read, images, wanted.max_pixels)
    return ImageSource(str(path), classes, listed.labels, file_name, load, listed.skipped)


def _why_empty(listed: _Samples) -> str:
    if any(reason.startswith((WITHOUT_LABEL, NO_NUMBER)) for reason in listed.skipped.reasons()):
        return "no image in its shards has a label: add the .cls files, or set data.labels: false"
    return f"no images in its shards: each needs a file ending in {', '.join(FIRST)}"


def _is_packed(shard: _Shard) -> bool:
    return shard.path.name.lower().endswith("gz")


def _shards(path: Path, listed: _Samples) -> tuple[list[_Shard], list[str] | None]:
    """The tars in the order of their names, and the classes' names if a file beside the tars gives them."""
    if not path.exists():
        raise UserError(f"{path} does not exist: set data.path to a folder of shards or to one .tar")
    if not path.is_dir():
        if not path.name.lower().endswith(SHARDS):
            refuse_packed(path, path)
            raise UserError(f"{path} is no folder and no .tar: set data.path to a folder of shards or to one .tar")
        return [_Shard(path, path.name)], _names(path.parent / NAMES)
    if (path / INDEX).is_file():
        return _own_shards(path)
    with ExitStack() as stack:
        listing = list_files(path, stack)
    names = [listing.files.name(number) for number in listing.files.by_name()]
    if packed := next((name for name in names if name.lower().endswith(PACKED)), None):
        refuse_packed(path / packed, path)
    shards = [name for name in names if name.lower().endswith(SHARDS)]
    if not shards:
        raise UserError(f"{path}: no .tar in it: set data.path to a folder of shards or to one .tar")
    _refuse_splits(shards, path)
    refuse_mixed_splits(shards, path)
    refuse_missing(shards, path)
    others = [name for name in names if not name.lower().endswith(SHARDS) and name != NAMES]
    listed.skipped.extend({"file": name, "reason": NO_SHARD} for name in others)
    listed.skipped.extend(listing.skipped)
    return [_Shard(path / name, name) for name in shards], _names(path / NAMES)


def _refuse_splits(shards: list[str], path: Path) -> None:
    """Refuses train/ beside val/: images to test with would be trained on."""
    tops = sorted({name.split("/")[0] if "/" in name else "" for name in shards})
    splits = [top for top in tops if top.lower() in SPLITS]
    if splits and len(tops) > 1:
        wanted = next((top for top in splits if top.lower().startswith("train")), splits[0])
        raise UserError(f"{path}: shards lie in {' and '.join(map(repr, tops))}: set data.path to {path / wanted}")


def _names(path: Path) -> list[str] | None:
    """The classes' names, one on each line of a file; None without that file."""
    if not path.is_file():
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8: save it in that encoding") from None
    while names and not names[-1]:
        names.pop()
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{path} has an empty line or a name twice: write one class on each line")
    return names


def _own_shards(folder: Path) -> tuple[list[_Shard], list[str] | None]:
    """Shards that this program wrote; refuses missing and changed ones."""
    try:
        index = read_index(folder)
    except UserError as error:
        raise UserError(f"{error}; or move {INDEX} away if another program wrote it") from None
    check_sizes(folder, index)
    for shard in index["shards"]:
        verify(folder, shard)
    return [_Shard(folder / shard["file"], shard["file"]) for shard in index["shards"]], index["classes"] or None


def _list_shard(listed: _Samples, shard: _Shard, descriptor: int, start: int, size: int | None) -> None:
    """Lists the samples of one tar, which an open file holds from `start` on."""
    first, before = len(listed.images), len(listed.images) + len(listed.skipped)
    files = _files(listed, shard, descriptor, start, size)
    for key, group in groupby(files, key=lambda file: _key(file.name)):
        _list_group(listed, shard, descriptor, key, list(group))
    _refuse_twice(listed.images, first, shard)
    if len(listed.images) + len(listed.skipped) == before:
        listed.note(shard, "", EMPTY)


def _refuse_twice(images: Catalogue, first: int, shard: _Shard) -> None:
    """Refuses a shard that has an image twice, as appending to a tar makes it; its images are those from `first` on."""
    numbers = range(first, len(images))
    if all(one < other for one, other in pairwise(map(images.name, numbers))):
        return
    for one, other in pairwise(sorted(map(images.name, numbers))):
        if one == other:
            raise UserError(f"{shard.path}: {shown(one)} is there twice: write the shard again")


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _files(listed: _Samples, shard: _Shard, descriptor: int, start: int, size: int | None) -> Iterator[_File]:
    for member in tar_members(descriptor, start, size):
        name = inner_name(member.name, shard.path)
        if member.kind == FOLDER:
            continue
        if is_litter(name):
            listed.note(shard, name, HIDDEN)
        elif member.kind == FILE:
            stem, suffix = posixpath.splitext(name)
            yield _File(name, stem, suffix.lower(), member.place, member.size)
        elif member.kind in (LINK, HARD_LINK):
            listed.leave_out(shard, name, "a link", "pack the file itself")
        else:
            listed.note(shard, name, SPECIAL)


def _list_group(listed: _Samples, shard: _Shard, descriptor: int, key: str, files: list[_File]) -> None:
    """Lists the samples among the consecutive files with one key: each file is taken, noted or refused."""
    seen: set[tuple[str, str]] = set()
    for file in files:
        if (file.stem, file.suffix) in seen:
            raise UserError(f"{shard.path}: {shown(file.name)} is there twice: write the shard again")
        seen.add((file.stem, file.suffix))
    # Which files are images, by their suffix or, if none is, by their first bytes? Which are labels?
    images = {file for file in files if file.suffix in SUFFIXES}
    if not images:
        images = {file for file in files if file.suffix not in LABELS and _holds_image(descriptor, file)}
    main = _first_of_each_stem(
        [file for file in files if file in images], (*FIRST, *SUFFIXES, *(file.suffix for file in images))
    )
    labels = _first_of_each_stem([file for file in files if file.suffix in LABELS], LABELS)
    label_of = _paired(main, labels, key)
    # Take the samples; x.mask.png and x.meta.json belong to a sample x, alone they would be half a sample.
    wanted = label_of if listed.labelled else main
    of_key = {key} & wanted.keys()
    taken: set[_File] = set()
    for stem, image in main.items():
        if of_key and stem != key and stem not in labels:
            continue
        taken |= {image} | ({label_of[stem]} if stem in label_of else set())
        _add(listed, shard, descriptor, image, label_of.get(stem))
    for file in files:
        if file in taken:
            continue
        if file in images:
            listed.note(shard, file.name, FURTHER)
        elif labels.get(file.stem) == file and not of_key and file.stem not in main:
            listed.leave_out(shard, file.name, "a label without an image", "add the image")
        else:
            listed.note(shard, file.name, UNUSED)


def _holds_image(descriptor: int, file: _File) -> bool:
    return looks_like_image(read_at(descriptor, file.place, min(file.size, HEAD_BYTES)))


def _first_of_each_stem(files: list[_File], suffixes: tuple[str, ...]) -> dict[str, _File]:
    """For each stem the file whose suffix comes first among `suffixes`."""
    found: dict[str, _File] = {}
    for file in files:
        known = found.setdefault(file.stem, file)
        if suffixes.index(file.suffix) < suffixes.index(known.suffix):
            found[file.stem] = file
    return found


def _paired(images: dict[str, _File], labels: dict[str, _File], key: str) -> dict[str, _File]:
    """The label of each image, by the image's stem.

    That is the label with the same stem. Else it is the only label beside the only image, as x.output.cls beside
    x.input.png, in the smallest group of files that has a label and whose names begin alike up to a dot.
    """
    images_in = Counter(start for stem in images for start in _starts(stem, key))
    labels_in: dict[str, list[_File]] = {}
    for stem, label in labels.items():
        for start in _starts(stem, key):
            labels_in.setdefault(start, []).append(label)
    pairs = {}
    for stem in images:
        start = next((start for start in _starts(stem, key) if start in labels_in), None)
        if stem in labels:
            pairs[stem] = labels[stem]
        elif start is not None and images_in[start] == len(labels_in[start]) == 1:
            pairs[stem] = labels_in[start][0]
    return pairs


def _starts(stem: str, key: str) -> Iterator[str]:
    """The stem, and what is left of it up to each of its dots, down to the key."""
    while len(stem) > len(key):
        yield stem
        stem = stem.rpartition(".")[0]
    yield key


def _add(listed: _Samples, shard: _Shard, descriptor: int, image: _File, label_file: _File | None) -> None:
    """Adds one sample to `listed`, or leaves it out."""
    label = -1
    if listed.labelled:
        if label_file is None:
            remedy = f"add {shown(f'{image.stem}.cls')}, or set data.labels: false"
            return listed.leave_out(shard, image.name, WITHOUT_LABEL, remedy)
        small = label_file.size <= LABEL_BYTES
        found = _label(label_file.suffix, read_at(descriptor, label_file.place, label_file.size) if small else b"")
        if found is None:
            reason = NO_NUMBER + (' under "label" or "cls"' if label_file.suffix == ".json" else "")
            return listed.leave_out(shard, label_file.name, reason, "repair it")
        label, class_name = found
        if class_name is not None and listed.names.setdefault(label, class_name) != class_name:
            both = f"{shown(listed.names[label])} and {shown(class_name)}"
            raise UserError(f"{shard.path}: {shown(label_file.name)}: the label {label} is called {both}: choose one")
    listed.images.add(image.name, image.place, image.size)
    listed.labels.append(label)


def _label(kind: str, content: bytes) -> tuple[int, str | None] | None:
    """The label and the class's name, if given; None if the file holds no valid label."""
    try:
        value: Any = json.loads(content) if kind == ".json" else int(content.replace(b"_", b" ").decode("ascii"))
    except (ValueError, RecursionError):
        return None
    name: Any = None
    if isinstance(value, dict):
        name, value = value.get("class_name"), value.get("label", value.get("cls"))
    fits = type(value) is int and 0 <= value <= MAX_LABEL and (name is None or isinstance(name, str))
    return (value, name) if fits else None


def _classes(listed: _Samples, names: list[str] | None, path: Path) -> list[str]:
    """A name for each label; refuses classes without samples and labels without classes."""
    used, highest = set(listed.labels), max(listed.labels)
    if names is not None and highest >= len(names):
        number = listed.labels.index(highest)
        raise UserError(
            f"{path}: {shown(listed.images.name(number))} has the label {highest}, but there are {len(names)} classes, "
            f"0 to {len(names) - 1}: correct it, or {NAMES}"
        )
    missing = next(label for label in range(len(used) + 1) if label not in used)
    if missing < highest:
        gap = f"no sample has the label {missing}, but one has {highest}"
        raise UserError(f"{path}: {gap}: count labels from 0 without gaps")
    if names is not None and missing < len(names):
        raise UserError(
            f"{path}: no sample has the label {missing}, which {NAMES} calls {shown(names[missing])}: "
            "remove the names of classes without images"
        )
    # Without a file of names, take those of the .json files, or numbers.
    if names is None:
        names = [listed.names.get(label, str(label)) for label in range(highest + 1)]
        if len(set(names)) < len(names):
            raise UserError(f"{path}: two labels have one class_name: give each class a name of its own, or {NAMES}")
    return names
