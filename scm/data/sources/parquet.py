"""Images in Parquet files, as Hugging Face's `datasets` writes them: a column of image bytes, a column of labels.

No image is read before its turn, and memory holds one page of a file (scm/data/reading/row_groups.py).
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scm.data.reading.containers import UNPACK, list_files, refuse_packed
from scm.data.reading.cropping import BadImageError
from scm.data.reading.images import decode
from scm.data.reading.labels import MAX_LABEL, class_count, refuse_missing, refuse_mixed_splits
from scm.data.reading.row_groups import AGAIN, Group, Reader, check_pages, chunk_of, first_line, opened
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource, Wanted
from scm.errors import UserError

SUFFIX = ".parquet"
PACKED = tuple(SUFFIX + suffix for suffix in UNPACK)
IMAGES = ("image", "img", "images", "picture")
LABELS = ("label", "labels", "cls", "class")
"""Usual names of the columns, for files that do not say themselves what each column is."""
FREE_ROWS = 2**20
"""A file may have FREE_ROWS rows, or one for each of its bytes if these are more."""
BATCH = 2**16


@dataclass(frozen=True)
class Columns:
    """What a file's columns hold.

    Attributes:
        image: name of the column of images.
        leaf: path of the column that holds their bytes: `image`, or its field.
        label: name of the column of labels; None = they are not wanted.
        names: of the classes; None = the file does not say them.
    """

    image: str
    leaf: str
    label: str | None
    names: tuple[str, ...] | None


@dataclass
class _Listed:
    """The rows listed so far.

    Attributes:
        groups: all row groups.
        starts: for each row group, the number of rows before it.
        rows: the numbers of the rows that are taken, by the number of the image.
        labels: their labels.
    """

    groups: list[Group] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    rows: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("i"))
    count: int = 0

    def place(self, row: int) -> tuple[int, int]:
        """The row group of a row, and the row's number in it."""
        group = bisect_right(self.starts, row) - 1
        return group, row - self.starts[group]


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the rows of all files, in the order of the files' names; only labels are read.

    Classes are called as the schema's metadata says, otherwise 0, 1, ... With on_bad_image "skip", rows without a label
    are left out and noted; otherwise the first one is refused.

    Raises:
        UserError: nothing to read, a damaged file, files of several kinds or splits, labels that fit no class.
    """
    path = wanted.path
    files, skipped = _files(path, stack)
    listed, first = _Listed(), None
    for file in files:
        with opened(file) as parquet:
            columns = _columns(file, parquet[0], wanted.labels)
            first = first or columns
            if columns != first:
                problem = f"its columns or classes are not those of {files[0].name}"
                raise UserError(f"{file}: {problem}: put one data set alone there")
            _add(listed, file, parquet, columns, wanted, skipped)
    if first is None or not len(listed.labels):
        raise UserError(f"{path}: no images with a label in it: set data.labels: false, or another data.path")
    reader = Reader(listed.groups, first.leaf, stack)

    def file_name(number: int) -> str:
        group, row = listed.place(listed.rows[number])
        return _row_name(path, listed.groups[group].path, listed.groups[group].first + row)

    def load(number: int) -> Any:
        data = reader.read(*listed.place(listed.rows[number]))
        if data is None:
            raise BadImageError("it has no bytes, at most the path of a file elsewhere")
        return decode(lambda: data, len(data), wanted.max_pixels)

    classes = _classes(path, listed.labels, first.names) if wanted.labels else []
    return ImageSource(str(path), classes, listed.labels, file_name, load, skipped)


def _files(path: Path, stack: ExitStack) -> tuple[list[Path], Skipped]:
    """The Parquet files in the order of their names, and the other files; refuses a mixture of splits."""
    if path.is_file() and path.suffix.lower() == SUFFIX:
        return [path], Skipped()
    if path.is_file():
        refuse_packed(path, path)
        raise UserError(f"{path} is no {SUFFIX} file: set data.path to one, or to a folder of them")
    listing = list_files(path, stack)
    skipped, names = listing.skipped, []
    for number in listing.files.by_name():
        name = listing.files.name(number)
        if name.lower().endswith(SUFFIX):
            names.append(name)
        elif name.lower().endswith(PACKED):
            refuse_packed(path / name, path)
        else:
            skipped.append({"file": name, "reason": "not a Parquet file"})
    if not names:
        arrow = any(entry["file"].endswith(".arrow") for entry in skipped)
        remedy = "write the .arrow files again with to_parquet" if arrow else "set data.path to a folder with some"
        raise UserError(f"{path}: no {SUFFIX} files in it: {remedy}")
    refuse_mixed_splits(names, path)
    refuse_missing(names, path)
    return [path / name for name in names], skipped


def _row_name(path: Path, file: Path, row: int) -> str:
    return f"{file.relative_to(path) if file != path else file.name} row {row}"


def _columns(file: Path, parquet: Any, labels: bool) -> Columns:
    """Finds the columns by the features that `datasets` notes in the schema, otherwise by types and usual names."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)

    def holds_image(kind: Any) -> bool:
        if not types.is_struct(kind):
            return holds_bytes(kind)
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)

    schema = parquet.schema_arrow
    kinds = dict(zip(schema.names, schema.types, strict=True))
    if len(kinds) < len(schema.names):
        raise UserError(f"{file}: two columns have one name: write it again without one of them")
    features = _features(file, schema.metadata or {})
    noted = [name for name in kinds if features.get(name, {}).get("_type") == "Image" and holds_image(kinds[name])]
    image = _chosen(file, "images", noted or [name for name in kinds if holds_image(kinds[name])], IMAGES)
    leaf = f"{image}.bytes" if types.is_struct(kinds[image]) else image
    if not labels:
        return Columns(image, leaf, None, None)
    whole = [name for name in kinds if types.is_integer(kinds[name])]
    noted = [name for name in whole if features.get(name, {}).get("_type") == "ClassLabel"]
    found = noted or [name for name in whole if name.lower() in LABELS]
    if not found and (other := next((name for name in kinds if name.lower() in LABELS), None)):
        problem = f"its column {other} holds {kinds[other]}, and labels are whole numbers"
        raise UserError(f"{file}: {problem}: write the classes' numbers there, or set data.labels: false")
    label = _chosen(file, "labels", found, LABELS)
    return Columns(image, leaf, label, _names(file, features.get(label, {}).get("names")))


def _chosen(file: Path, what: str, columns: list[str], usual: tuple[str, ...]) -> str:
    """The only column, or the only one with a usual name."""
    known = [name for name in columns if name.lower() in usual]
    if not columns:
        remedy = "set data.labels: false" if what == "labels" else "set data.path to files with their bytes"
        raise UserError(f"{file}: no column of {what}: {remedy}")
    if len(columns) > 1 and len(known) != 1:
        raise UserError(f"{file}: {', '.join(columns)} are columns of {what}: write it again with one of them")
    return known[0] if len(known) == 1 else columns[0]


def _features(file: Path, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What `datasets` notes of each column, such as {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}."""
    if b"huggingface" not in metadata:
        return {}
    try:
        content: Any = json.loads(metadata[b"huggingface"])
        for key in ("info", "features"):
            content = content.get(key) or {}
        return {name: feature for name, feature in content.items() if isinstance(feature, dict)}
    except (ValueError, RecursionError, AttributeError) as error:
        problem = f"the schema's entry huggingface cannot be read ({first_line(error)})"
        raise UserError(f"{file}: {problem}: {AGAIN}") from None


def _names(file: Path, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: the schema has no list of names for its classes: {AGAIN}")
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UserError(f"{file}: the schema calls two classes {twice}: write it again with other names")
    return tuple(names)


def _classes(path: Path, labels: array, names: tuple[str, ...] | None) -> list[str]:
    if names is None:
        return [str(label) for label in range(class_count(labels, str(path)))]
    missing = set(range(len(names))) - set(labels)
    if missing:
        label = min(missing)
        problem = f"no image has the label {label}, which the schema calls {names[label]}"
        raise UserError(f"{path}: {problem}: write it again with the classes that it has, or set data.labels: false")
    return list(names)


def _add(
    listed: _Listed, file: Path, opened: tuple[Any, int], columns: Columns, wanted: Wanted, skipped: Skipped
) -> None:
    """Adds the rows of a file; ValueError if it contradicts itself."""
    first, count = listed.count, _add_groups(listed, file, opened, columns)
    if columns.label is None:
        listed.rows.extend(range(first, listed.count))
        listed.labels.extend([-1] * count)
        return
    highest, row = len(columns.names) - 1 if columns.names else MAX_LABEL, 0
    for label in _labels(opened[0], columns.label):
        if label is None or label == -1:  # -1 stands for no label in the test split of a data set
            reason, name = f"no label ({'null' if label is None else label})", _row_name(wanted.path, file, row)
            if wanted.on_bad_image != "skip":
                remedy = "set data.labels: false, or data.on_bad_image: skip"
                raise UserError(f"{wanted.path}: {name}: {reason}: {remedy}")
            skipped.append({"file": name, "reason": reason})
        elif 0 <= label <= highest:
            listed.rows.append(first + row)
            listed.labels.append(label)
        else:
            problem = f"row {row} has the label {label}, not one of 0 to {highest}"
            raise UserError(f"{file}: {problem}: write it again, or set data.labels: false")
        row += 1
    if row != count:
        raise ValueError(f"it has {row:,} labels for {count:,} rows")


def _add_groups(listed: _Listed, file: Path, opened: tuple[Any, int], columns: Columns) -> int:
    """Adds the row groups of a file, and returns the number of its rows."""
    parquet, descriptor = opened
    limit, count = max(FREE_ROWS, os.fstat(descriptor).st_size), 0
    for number in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(number).num_rows
        listed.groups.append(Group(file, number, count))
        listed.starts.append(listed.count + count)
        count += rows
        if rows < 0 or count > limit:
            raise ValueError(f"it claims {count:,} rows")
        if rows != chunk_of(parquet, number, columns.leaf).num_values:
            raise ValueError(f"row group {number} has not one image for each row")
        if rows and columns.label:
            check_pages(parquet, descriptor, number, columns.label)
    if count != parquet.metadata.num_rows:
        raise ValueError(f"it claims {parquet.metadata.num_rows:,} rows and has {count:,}")
    listed.count += count
    return count


def _labels(parquet: Any, column: str) -> Iterator[int | None]:
    for batch in parquet.iter_batches(BATCH, columns=[column], use_threads=False):
        yield from batch.column(column).to_pylist()
