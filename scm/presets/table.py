"""`scm preset list`: the presets' data, sizes, parameters and methods, with the paper's figures where it has some.

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

from scm.base.yaml_files import parse_mapping, read_text
from scm.errors import UserError
from scm.params import METHODS
from scm.params.faults import Fault
from scm.presets import apply

Figures = dict[str, float]
TABLES = Path("pipelines/paper_tables.yaml")
STEPS = ("_1step", "_2step", "")
"""Endings of the keys of a figure in one step, in two, and in `nfe` of them."""
HEADER = (
    f"{'':61}{'FID':^25}{'FDD':^29}".rstrip(),
    f"{'preset':15}  {'data':11}  {'size':4}  {'parameters':>10}  {'method':11}"
    f"{'1 step':>7}{'2 steps':>9}{'more':>9}{'1 step':>9}{'2 steps':>9}{'more':>11}",
)
LEGEND = (
    "* = switched on; `scm preset show NAME` prints a preset. FID and FD-DINOv2 as arXiv 2410.11081v2 publishes them:",
    "50,000 samples, each at its best guidance scale, a teacher's or a longer sampler's @ its network evaluations.",
)
WIDTH, OWN_METHODS = 115, 12


@dataclass(frozen=True)
class Entry:
    """One preset.

    Attributes:
        summary: first line of its header.
        data: data set of the paper, or `data.source`.
        size: column of the paper's tables; empty where they have one only.
        parameters: of the teacher's network; None for presets that are not the paper's.
        methods: published figures of each method that the preset declares, and of the teacher if there are some:
            {"fid_1step": 3.66, ...}; `fid` and `fdd` are at `nfe` network evaluations.
        on: methods that the preset switches on.
    """

    name: str
    summary: str
    data: str
    size: str
    parameters: int | None
    methods: dict[str, Figures]
    on: tuple[str, ...]


def entries(root: Path) -> list[Entry]:
    """All presets: first those that are not the paper's, then the paper's by data set and size."""
    read = functools.cache(apply.read_preset)
    tables = parse_mapping(read_text(root / TABLES, "restore it with git"), str(TABLES))
    found = [_entry(root, name, tables, read) for name in apply.names(root)]

    def order(entry: Entry) -> tuple[Any, ...]:
        if entry.parameters is None:
            return -1, 0, entry.name
        return list(tables["results"]).index(entry.data), entry.parameters if entry.size else 0, entry.name

    return sorted(found, key=order)


def published(tables: Mapping[str, Any], row: Mapping[str, Any], segments: int) -> dict[str, Figures]:
    """The paper's figures for a preset's `paper` block, as in `Entry.methods`; of multistep, those at `segments`."""
    dataset = row["dataset"]
    if "comparison" in row:
        by_iterations = tables[dataset][row["comparison"]]["fid_1step_at_k"]["sCT"]
        return {"sct": {"fid_1step": by_iterations[max(by_iterations)]}}
    blocks = dict(tables["results"][dataset])
    ablation, multistep = blocks.pop("vsd_ablation_M", {}), blocks.pop("multistep_scd", {})
    ending, nfe = {1: ("_1step", {}), 2: ("_2step", {})}.get(segments, ("", {"nfe": segments}))
    if segments in multistep.get("fid", {}):
        blocks["multistep"] = {f"{figure}{ending}": multistep[figure][segments] for figure in ("fid", "fdd")} | nfe
    if ablation and row["size"] == "M":
        blocks["vsd"] = ablation["vsd"]
    wanted = {"nfe", *(f"{figure}{ending}" for figure in ("fid", "fdd") for ending in STEPS)}
    return {
        method: {
            key: value[row["size"]] if isinstance(value, Mapping) else value
            for key, value in block.items()
            if key in wanted
        }
        for method, block in blocks.items()
    }


def table(listed: Sequence[Entry]) -> list[str]:
    """The lines that `scm preset list` prints."""
    lines: list[str] = [*HEADER]
    for _, group in groupby(listed, key=lambda entry: entry.data if entry.parameters else ""):
        for entry in group:
            lines.extend(_lines(entry))
        lines.append("")
    return [*lines, *LEGEND]


def _entry(root: Path, name: str, tables: Mapping[str, Any], read: apply.Read) -> Entry:
    values, row = apply.resolve(root, name, read), apply.paper_row(root, name, read)
    student = values.get("student", {})
    segments = (student.get("multistep") or {}).get("segments", 0)
    try:
        figures, parameters = (published(tables, row, segments), row["parameters"]) if row else ({}, None)
    except KeyError as missing:
        fault = Fault(apply.PAPER, row, f"{missing} is missing there or in {TABLES}; correct the block")
        raise UserError(f"{apply.file(root, name)}: {fault}") from None
    return Entry(
        name=name,
        summary=apply.summary(root, name),
        data=row.get("dataset") or values.get("data", {}).get("source", ""),
        size=row.get("size", ""),
        parameters=parameters,
        methods={
            method: figures.get(method, {})
            for method in ("teacher", *METHODS)
            if student.get(method) or (method == "teacher" and method in figures)
        },
        on=tuple(student.get("methods", ())),
    )


def _lines(entry: Entry) -> Iterator[str]:
    """One line for each method of the paper's presets; else methods and summary, in as few lines as hold these."""
    start = f"{entry.name:15}  {entry.data:11}  {entry.size:4}  "
    names = {method: f"{method}{' *' if method in entry.on else ''}" for method in entry.methods}
    if entry.parameters is None:
        methods, room = _filled(list(names.values()), OWN_METHODS), WIDTH - len(start) - 14 - OWN_METHODS
        summary = textwrap.wrap(entry.summary, room, max_lines=len(methods), placeholder=" ...")
        for some, words in zip_longest(methods, summary, fillvalue=""):
            yield f"{start}{'':10}  {some:{OWN_METHODS}}  {words}".rstrip()
            start = " " * len(start)
        return
    start += f"{entry.parameters / 1e6:9.1f}M  "
    for method, figures in entry.methods.items():
        cells = f"{names[method]:11}"
        for figure, widths in (("fid", (7, 9, 9)), ("fdd", (9, 9, 11))):
            for ending, width in zip(STEPS, widths, strict=True):
                value = figures.get(f"{figure}{ending}")
                at = f" @{figures['nfe']}" if value is not None and not ending else ""
                cells += f"{'' if value is None else f'{value:.2f}{at}':>{width}}"
        yield f"{start}{cells}".rstrip()
        start = " " * len(start)


def _filled(names: Sequence[str], width: int) -> list[str]:
    """The names, as many on each line as fit."""
    lines = [names[0]] if names else [""]
    for name in names[1:]:
        if len(lines[-1]) + len(name) + 2 <= width:
            lines[-1] += f", {name}"
        else:
            lines.append(name)
    return lines
