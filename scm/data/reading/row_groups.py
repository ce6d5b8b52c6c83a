"""Row groups of Parquet files: images one by one, from any thread, with memory for one page of the file.

A page's header says what the page unpacks to. All headers of a column are read before any of its pages is: a few bytes
could fill the memory.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from scm.errors import UserError

FREE_BYTES, RATIO = 2**28, 20
"""A page may unpack to FREE_BYTES, or to RATIO times its packed size if that is more; images are packed already."""
KEPT_ROWS, KEPT_BYTES = 1024, 2**26
"""Images that were passed by on the way to a later one wait for slower threads: so many, of so many bytes in all."""
AGAIN = "copy it again, or write it again"


@dataclass(frozen=True)
class Group:
    """A row group of a file: its number there, and its first row's number in the file."""

    path: Path
    number: int
    first: int


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, int]]:
    """Yields pyarrow's ParquetFile and a descriptor of the file; faults of the file become a UserError."""
    try:
        with ExitStack() as stack:
            yield _open(path, stack)
    except faults() as error:
        raise UserError(f"{path} cannot be read as Parquet ({first_line(error)}): {AGAIN}") from None


def _open(path: Path, stack: ExitStack) -> tuple[Any, int]:
    from pyarrow.parquet import ParquetFile

    settings: dict[str, Any] = {"buffer_size": 2**20, "pre_buffer": False, "page_checksum_verification": True}
    handle = stack.enter_context(path.open("rb"))
    return stack.enter_context(ParquetFile(str(path), **settings)), handle.fileno()


def faults() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    from pyarrow import ArrowException

    return ArrowException, OSError, ValueError, LookupError, OverflowError


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Reader:
    """Reads images from row groups, one after the other; threads take turns."""

    def __init__(self, groups: Sequence[Group], leaf: str, stack: ExitStack) -> None:
        self._groups, self._leaf, self._lock = groups, leaf, Lock()
        self._open = stack.enter_context(ExitStack())
        self._group, self._next, self._path = -1, 0, Path()
        self._values: Iterator[bytes | None] = iter(())
        self._parquet: Any = None
        self._descriptor = -1
        self._passed: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self._passed_bytes = 0
        self._faults: dict[int, tuple[int, str]] = {}

    def read(self, group: int, row: int) -> bytes | None:
        """The bytes of an image, None if they are null; OSError if the file is damaged there."""
        with self._lock:
            if (group, row) in self._passed:
                data = self._passed.pop((group, row))
                self._passed_bytes -= len(data or b"")
                return data
            broken_from, reason = self._faults.get(group, (row + 1, ""))
            if row >= broken_from:
                raise OSError(reason)
            try:
                if group != self._group or row < self._next:
                    self._start(group)
                while self._next < row:
                    self._pass_by(group, self._advance())
                return self._advance()
            except faults() as error:
                self._faults[group] = self._next, first_line(error)
                self._group = -1
                raise OSError(first_line(error)) from error

    def _start(self, number: int) -> None:
        """Goes to the first row of a row group."""
        group = self._groups[number]
        self._group, self._next = -1, 0
        if group.path != self._path:
            self._open.close()
            self._path = Path()
            self._parquet, self._descriptor = _open(group.path, self._open)
            self._path = group.path
        check_pages(self._parquet, self._descriptor, group.number, self._leaf)
        self._values = _values(self._parquet, group.number, self._leaf)
        self._group = number

    def _advance(self) -> bytes | None:
        try:
            data = next(self._values)
        except StopIteration:
            raise OSError("the row group ends too early") from None
        self._next += 1
        return data

    def _pass_by(self, group: int, data: bytes | None) -> None:
        self._passed[group, self._next - 1] = data
        self._passed_bytes += len(data or b"")
        while self._passed_bytes > KEPT_BYTES or len(self._passed) > KEPT_ROWS:
            self._passed_bytes -= len(self._passed.popitem(last=False)[1] or b"")


def _values(parquet: Any, group: int, leaf: str) -> Iterator[bytes | None]:
    """Yields the images of a row group: one row at a time, as a dictionary may hold one large value for all rows."""
    for batch in parquet.iter_batches(1, row_groups=[group], columns=[leaf], use_threads=False):
        value = batch.column(0)[0].as_py()
        yield value.get("bytes") if isinstance(value, dict) else value


def chunk_of(parquet: Any, group: int, leaf: str) -> Any:
    """What the file says of a row group's part of a column."""
    content = parquet.metadata.row_group(group)
    chunks = [content.column(number) for number in range(content.num_columns)]
    found = [chunk for chunk in chunks if chunk.path_in_schema == leaf]
    if len(found) != 1:
        raise ValueError(f"row group {group} has no column {leaf}")
    return found[0]


def check_pages(parquet: Any, descriptor: int, group: int, leaf: str) -> None:
    """Goes from page to page of a row group's column, without unpacking any.

    Raises:
        ValueError: a page that unpacks to far too much, pages that are damaged or do not hold all values.
    """
    chunk = chunk_of(parquet, group, leaf)
    dictionary = chunk.dictionary_page_offset or chunk.data_page_offset
    place, values = min(dictionary, chunk.data_page_offset), 0
    end = os.fstat(descriptor).st_size
    while values < chunk.num_values:
        header, length = _header(descriptor, place)
        unpacked, packed = header.get(2), header.get(3)
        place += length
        if not (isinstance(unpacked, int) and isinstance(packed, int) and 0 <= packed <= end - place and unpacked >= 0):
            raise ValueError(f"row group {group} has a damaged page")
        if unpacked > max(FREE_BYTES, RATIO * packed):
            raise ValueError(f"a page of row group {group} claims to grow from {packed:,} to {unpacked:,} bytes")
        data = header.get(5) or header.get(8)
        if isinstance(data, dict):
            values += max(0, data.get(1, 0))
        place += packed
    if values != chunk.num_values:
        raise ValueError(f"row group {group} has {values:,} values instead of {chunk.num_values:,}")


def _header(descriptor: int, place: int) -> tuple[dict[int, Any], int]:
    """The header of a page, as Thrift's compact protocol numbers its fields, and its length."""
    for size in (2**12, 2**20):
        try:
            thrift = _Thrift(os.pread(descriptor, size, place))
            return thrift.struct(), thrift.place
        except IndexError:
            continue
    raise ValueError("a page has a damaged header")


class _Thrift:
    """Reads structs of Thrift's compact protocol; IndexError where the data end."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        readers: dict[int, Callable[[], Any]] = {
            1: lambda: True, 2: lambda: False, 3: self._byte, 4: self._zigzag, 5: self._zigzag, 6: self._zigzag,
            7: lambda: self._bytes(8), 8: lambda: self._bytes(self._varint()), 12: lambda: self.struct(depth),
        }  # fmt: skip
        if kind not in readers or depth > 8:
            raise ValueError("a page has a damaged header")
        return readers[kind]()

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self.place:
            raise IndexError
        self.place += count
        return self._data[self.place - count : self.place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page has a damaged header")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
