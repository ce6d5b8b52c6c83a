"""`scm preset list`: the presets' data, sizes, parameters and methods, with the paper's figures for its own settings.

How long a preset of the project's own takes, and how large its network is, stands in the comment at its file's
beginning: "Time: ... minutes ...", as far as it has been measured, and "... parameters".

A preset stands for a column of pipelines/paper_tables.yaml by its `paper` block: {dataset, size, parameters}, or
{dataset, comparison, parameters} for a comparison that has its own table; `parameters` counts the teacher's network.
"""

import functools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from scm.base.tables import columns
from scm.errors import UserError
from scm.params import METHODS
from scm.params.faults import Fault
from scm.presets import apply
from scm.presets.paper import STEPS, TABLES, Figures, figures_of, read_tables

OWN_HEAD = ("preset", "data", "images", "network", "time", "methods", "what it is")
HEAD = (
    *("preset", "data", "size", "parameters", "method"),
    *(f"{figure}@{steps}" for figure in ("FID", "FDD") for steps in "12N"),
)
ALIGNMENT = "lllrlrrrrrr"
LEGEND = (
    "* = switched on; `scm preset show NAME` prints a preset. FID and FDD (FD-DINOv2) are the figures that arXiv",
    "2410.11081v2 publishes: 50,000 samples in one step (@1), in two (@2), or (@N) by the teacher or a longer sampler,",
    "with the number of network evaluations behind each; always at the best guidance scale.",
)
SHARES = 3, 2, 4
"""How time, methods and summary divide the width of a terminal, in which they are wrapped."""
NARROW = 48
"""Fewer characters than these for the three of them, and each preset is a block of lines."""
MEASURED = re.compile(r"\b(second|minute|hour|day|week)s?\b")
NOT_MEASURED = "not measured"
PARAMETERS = re.compile(r"([\d.,]*\d)( million)? parameters")


@dataclass(frozen=True)
class Row:
    """One preset."""

    name: str
    summary: str  # first line of its header
    data: str  # data set of the paper, or `data.source`
    size: str  # column of the paper's tables; empty if they have only one
    parameters: int | None  # of the teacher's network, to the last one; None for presets that are not the paper's
    images: str  # e.g. "8x8 grey"
    network: str  # parameters as the header rounds them, e.g. "181k"; empty if it does not say
    time: str  # as the header says, or `NOT_MEASURED`
    methods: dict[str, Figures]  # published figures of each declared method, and of the teacher if there are some
    on: tuple[str, ...]  # methods that the preset switches on


def entries(root: Path) -> list[Row]:
    """All presets: first those that are not the paper's, then the paper's by data set and size."""
    read = functools.cache(apply.read_preset)
    tables = read_tables(root)
    found = [_row(root, name, tables, read) for name in apply.names(root)]

    def order(row: Row) -> tuple[Any, ...]:
        if row.parameters is None:
            return -1, 0, row.name
        return list(tables["results"]).index(row.data), row.parameters if row.size else 0, row.name

    return sorted(found, key=order)


def table(listed: Sequence[Row], width: int | None = None) -> list[str]:
    """The lines that `scm preset list` prints: the project's own presets, then the paper's.

    Args:
        width: of the terminal, to which the former are wrapped; None = one line for each of them, as programs like it.
    """
    own = [row for row in listed if row.parameters is None]
    cells: list[list[str]] = []
    for _, group in groupby((row for row in listed if row.parameters is not None), lambda row: row.data):
        # An empty line separates the data sets.
        cells += [*([[""]] if cells else []), *(line for row in group for line in _lines(row))]
    lines = [*_own_lines(own, width), ""] if own else []
    return lines + ([*columns(cells, HEAD, ALIGNMENT), ""] if cells else []) + [*LEGEND]


def _row(root: Path, name: str, tables: Mapping[str, Any], read: apply.Read) -> Row:
    values, paper = apply.resolve(root, name, read), apply.paper_row(root, name, read)
    student = values.get("student", {})
    blocks = (block for block in student.values() if isinstance(block, dict))
    segments = next((block["segments"] for block in blocks if "segments" in block), 0)
    try:
        figures, parameters = (figures_of(tables, paper, segments), paper["parameters"]) if paper else ({}, None)
    except KeyError as missing:
        fault = Fault(apply.PAPER, paper, f"{missing} is missing there or in {TABLES}; correct the block")
        raise UserError(f"{apply.file(root, name)}: {fault}") from None
    own = [method for method in student if method in METHODS and student[method]]  # in the preset's own order
    declared = [*(["teacher"] if "teacher" in figures else []), *own]
    methods = {method: figures.get(method, {}) for method in declared}
    data = paper.get("dataset") or values.get("data", {}).get("source", "")
    on = tuple(student.get("methods", ()))
    header = apply.header(root, name)
    return Row(
        name, apply.summary(root, name), data, paper.get("size", ""), parameters, _images(values.get("data", {})),
        _network(header), _time(header), methods, on,
    )  # fmt: skip


def _images(data: Mapping[str, Any]) -> str:
    side, channels = data.get("resolution"), data.get("channels")
    return f"{side}x{side} {'grey' if channels == 1 else 'RGB'}" if side and channels else ""


def _network(header: str) -> str:
    """The number of parameters that a header names, e.g. "181k" or "6.8M"."""
    found = PARAMETERS.search(header)
    if found is None:
        return ""
    number = float(found[1].replace(",", "")) * (1e6 if found[2] else 1)
    return f"{number / 1e6:.3g}M" if number >= 1e6 else f"{number / 1e3:.0f}k"


def _time(header: str) -> str:
    """The sentence about the time, if it tells one that has been measured."""
    told = re.search(r"\bTime: (.*?)\.( |$)", header)
    return told[1] if told and MEASURED.search(told[1]) else NOT_MEASURED


def _shown(method: str, row: Row) -> str:
    return f"{method} *" if method in row.on else method


def _own_lines(rows: Sequence[Row], width: int | None) -> list[str]:
    cells = [(row.name, row.data, row.images, row.network, row.time, _methods(row), row.summary) for row in rows]
    if width is None:
        return columns(cells, OWN_HEAD)
    fixed = max(len(line) for line in columns([line[:4] for line in cells], OWN_HEAD[:4]))
    free = width - fixed - 2 * len(SHARES)
    if free < NARROW:
        return [line for cell in cells for line in _block(cell, width)]
    widths = [free * share // sum(SHARES) for share in SHARES]
    wrapped: list[Sequence[str]] = []
    for line in cells:
        texts = [_wrapped(text, size) for text, size in zip(line[4:], widths, strict=True)]
        wrapped += zip_longest(*([cell] for cell in line[:4]), *texts, fillvalue="")
    return columns(wrapped, OWN_HEAD)


def _block(cells: Sequence[str], width: int) -> Iterator[str]:
    """A preset for a narrow terminal: its name, then what it is, its size, time and methods, on lines of their own."""
    name, data, images, network, time, methods, summary = cells
    yield name
    size = ", ".join(filter(None, (f"data: {data}", images, network and f"network: {network} parameters")))
    for text in (summary, size, f"time: {time}", f"methods: {methods}"):
        first, *more = _wrapped(text, width - 4) or [""]
        yield from (f"  {first}", *(f"    {line}" for line in more))


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most this width, if no word is longer; a method and its star stay together."""
    kept = text.replace(" *", "\0*")
    lines = textwrap.wrap(kept, max(width, 1), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _methods(row: Row) -> str:
    return ", ".join(_shown(method, row) for method in row.methods)


def _lines(row: Row) -> Iterator[list[str]]:
    """One line for each method, with its published figures."""
    start = [row.name, row.data, row.size, f"{(row.parameters or 0) / 1e6:.1f}M"]
    for method, figures in row.methods.items():
        cells = []
        for key in (f"{figure}{ending}" for figure in ("fid", "fdd") for ending in STEPS):
            at = "" if key.endswith("step") else f" @{figures.get('nfe')}"
            cells.append(f"{figures[key]:.2f}{at}" if key in figures else "")
        yield [*start, _shown(method, row), *cells]
        start = [""] * len(start)
