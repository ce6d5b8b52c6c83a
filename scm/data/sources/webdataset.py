"""WebDataset shards as a source: tars in which consecutive files with one key are a sample.

A sample is <key>.jpg (.jpeg, .png, .webp) with a label: a whole number in <key>.cls, or {"label": 3} or {"cls": 3} in
<key>.json, where "class_name" may give the class's name. Other files of a sample are ignored.
"""

import json
import posixpath
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import ARCHIVE_FAULTS, read_at, shown, tar_members, unreadable
from scm.data.reading.images import loading
from scm.data.reading.source import ImageSource, Wanted
from scm.data.shards.shards import INDEX, check_sizes, read_index, verify
from scm.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
LABEL_BYTES = 2**20
"""Longest .cls or .json that is read, in bytes."""
MAX_LABEL = 2**31 - 1
NAMES = "classes.txt"


@dataclass
class _Samples:
    """The samples listed so far."""

    skip: bool
    images: Catalogue = field(default_factory=Catalogue)
    labels: array = field(default_factory=lambda: array("i"))
    starts: list[int] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def leave_out(self, shard: Path, key: str, reason: str, remedy: str) -> None:
        if not self.skip:
            raise UserError(f"{shard}: {shown(key)}: {reason}: {remedy}, or set data.on_bad_image: skip")
        self.skipped.append({"file": f"{shard.name}/{key}", "reason": reason})


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the samples shard by shard, in the order in which they lie there.

    Classes are called 0, 1, ... unless the folder has a classes.txt (a name on each line), the .json files name them,
    or the shards were written by this program; these are compared with their index first. With on_bad_image "skip",
    samples without an image or a usable label are left out and noted; otherwise the first one is refused.

    Raises:
        UserError: nothing to read, a damaged shard, an incomplete sample, labels that do not fit the classes.
    """
    path, labels = wanted.path, wanted.labels
    shards, names = _shards(path)
    listed = _Samples(skip=wanted.on_bad_image == "skip")
    for shard in shards:
        listed.starts.append(len(listed.images))
        try:
            with shard.open("rb") as handle:
                for key, files in _grouped(shard, handle):
                    _add(listed, shard, handle.fileno(), key, files, labels)
        except ARCHIVE_FAULTS as error:
            raise unreadable(shard, error) from error
    images = listed.images
    if not len(images):
        raise UserError(f"{path}: no images in its shards: each needs a file ending in .{', .'.join(IMAGES)}")
    classes = _classes(listed, names, path) if labels else []

    def shard_of(number: int) -> Path:
        return shards[bisect_right(listed.starts, number) - 1]

    def read(files: Catalogue, number: int) -> bytes:
        with shard_of(number).open("rb", buffering=0) as handle:  # each time: a process may not open thousands of files
            return read_at(handle.fileno(), files.places[number], files.sizes[number])

    def file_name(number: int) -> str:
        return f"{shard_of(number).name}/{images.name(number)}"

    load = loading(read, images, wanted.max_pixels)
    return ImageSource(str(path), classes, listed.labels, file_name, load, listed.skipped)


def _shards(path: Path) -> tuple[list[Path], list[str] | None]:
    """The tars in the order of their names, and the classes' names if a file beside the tars gives them."""
    if not path.exists():
        raise UserError(f"{path} does not exist: set data.path to a folder of shards or to one .tar")
    folder, shards = path, [path]
    if path.is_dir():
        shards = sorted(entry for entry in path.iterdir() if entry.suffix == ".tar" and not entry.name.startswith("."))
        if not shards:
            raise UserError(f"{path}: no .tar in it: set data.path to a folder of shards or to one .tar")
        if (path / INDEX).is_file():
            return _own_shards(path)
    elif path.suffix != ".tar":
        raise UserError(f"{path} is no folder and no .tar: set data.path to a folder of shards or to one .tar")
    else:
        folder = path.parent
    if not (folder / NAMES).is_file():
        return shards, None
    names = [line.strip() for line in (folder / NAMES).read_text(encoding="utf-8", errors="replace").splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{folder / NAMES} has an empty line or a name twice: write one class on each line")
    return shards, names


def _own_shards(folder: Path) -> tuple[list[Path], list[str] | None]:
    """Shards that this program wrote; refuses missing and changed ones."""
    index = read_index(folder)
    check_sizes(folder, index)
    for shard in index["shards"]:
        verify(folder, shard)
    return [folder / shard["file"] for shard in index["shards"]], index["classes"] or None


def _grouped(shard: Path, handle: Any) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yields samples as (key, {suffix: (place, size)}); the key ends at the first dot of the file's own name."""

    def files() -> Iterator[tuple[str, str, int, int]]:
        for info in tar_members(handle):
            folder, base = posixpath.split(info.name)
            stem, _, suffix = base.partition(".")
            if info.isreg() and stem and not info.issparse():
                yield posixpath.join(folder, stem), suffix.lower(), info.offset_data, info.size

    for key, group in groupby(files(), key=lambda entry: entry[0]):
        sample: dict[str, tuple[int, int]] = {}
        for _, suffix, place, size in group:
            if suffix in sample:
                raise UserError(f"{shard}: {shown(f'{key}.{suffix}')} is there twice: write the shard again")
            sample[suffix] = (place, size)
        yield key, sample


def _add(
    listed: _Samples, shard: Path, descriptor: int, key: str, files: dict[str, tuple[int, int]], labels: bool
) -> None:
    """Adds one sample to `listed`, or leaves it out; `files` are as `_grouped` yields them."""
    image = next((suffix for suffix in IMAGES if suffix in files), None)
    kind = next((suffix for suffix in LABELS if suffix in files), None)
    if image is None:
        if kind:
            listed.leave_out(shard, f"{key}.{kind}", "a label without an image", "add the image")
        return
    name, label = f"{key}.{image}", -1
    if labels and kind is None:
        remedy = f"add {shown(f'{key}.cls')}, or set data.labels: false"
        return listed.leave_out(shard, name, "an image without a label", remedy)
    if labels and kind:
        place, size = files[kind]
        content = read_at(descriptor, place, size) if size <= LABEL_BYTES else b""
        found = _label(kind, content)
        if found is None:
            reason = "no whole number from 0 on" + (' under "label" or "cls"' if kind == "json" else "")
            return listed.leave_out(shard, f"{key}.{kind}", reason, "repair it")
        label, class_name = found
        if class_name is not None and listed.names.setdefault(label, class_name) != class_name:
            both = f"{shown(listed.names[label])} and {shown(class_name)}"
            raise UserError(f"{shard}: {shown(key)}.json: the label {label} is called {both}: choose one")
    listed.images.add(name, *files[image])
    listed.labels.append(label)


def _label(kind: str, content: bytes) -> tuple[int, str | None] | None:
    """The label and the class's name, if given; None if the file holds no valid label."""
    try:
        value: Any = json.loads(content) if kind == "json" else int(content.decode("ascii"))
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
