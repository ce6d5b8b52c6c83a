"""`scm preset list`: the presets' data, sizes, parameters and methods, with the paper's figures for its own settings.

A preset stands for a column of pipelines/paper_tables.yaml by its `paper` block: {dataset, size, parameters}, or
{dataset, comparison, parameters} for a comparison that has its own table; `parameters` counts the teacher's network.
"""

import functools
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

OWN_HEAD = ("preset", "data", "methods", "what it is")
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
METHODS_WIDTH, SUMMARY_WIDTH = 24, 66


@dataclass(frozen=True)
class Row:
    """One preset."""

    name: str
    summary: str  # first line of its header
    data: str  # data set of the paper, or `data.source`
    size: str  # column of the paper's tables; empty if they have only one
    parameters: int | None  # of the teacher's network; None for presets that are not the paper's
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


def table(listed: Sequence[Row]) -> list[str]:
    """The lines that `scm preset list` prints: the project's own presets, then the paper's."""
    own = [line for row in listed if row.parameters is None for line in _own_lines(row)]
    cells: list[list[str]] = []
    for _, group in groupby((row for row in listed if row.parameters is not None), lambda row: row.data):
        # An empty line separates the data sets.
        cells += [*([[""]] if cells else []), *(line for row in group for line in _lines(row))]
    lines = [*columns(own, OWN_HEAD), ""] if own else []
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
    return Row(name, apply.summary(root, name), data, paper.get("size", ""), parameters, methods, on)


def _shown(method: str, row: Row) -> str:
    return f"{method} *" if method in row.on else method


def _own_lines(row: Row) -> Iterator[list[str]]:
    """The methods and the summary, in as few lines as hold the methods."""
    methods = textwrap.wrap(", ".join(_shown(method, row).replace(" ", "\0") for method in row.methods), METHODS_WIDTH)
    methods = [line.replace("\0", " ") for line in methods] or [""]
    limits: dict[str, Any] = {"max_lines": len(methods), "placeholder": " ...", "break_on_hyphens": False}
    summary = textwrap.wrap(row.summary, SUMMARY_WIDTH, **limits)
    yield from map(list, zip_longest([row.name], [row.data], methods, summary, fillvalue=""))


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
