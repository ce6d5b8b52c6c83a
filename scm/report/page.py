"""The report as one HTML file that refers to nothing outside itself and runs no script.

page.html.j2 is the page and style.css its look; this file prepares what they show.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scm.charts.inline import BIN_COLOURS, svg
from scm.report import data, wording
from scm.report.advice import advice
from scm.report.curves import LINES, by_time_chart, progress_chart, selection_charts, training_charts
from scm.report.findings import Findings, explained, floor_cells, health_lines, pairs_caption, row_cells, unseen_rows
from scm.report.paper import paper_charts
from scm.report.pictures import first_pictures
from scm.report.verdict import verdict
from scm.report.wording import commit_of, display_name, duration, number, stage_cells
from scm.results.reading import nearest_path, sample_path

FOLDER = Path(__file__).parent


def page(findings: Findings) -> str:
    """Returns the whole file.

    Raises:
        UserError: a picture is missing or empty, or the paper's tables are damaged.
    """
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name fails instead of leaving a gap
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Markup marks the only texts that are inserted unescaped: both are made here, not by users.
    templates.filters |= {"svg": lambda chart: Markup(svg(chart)), "number": number, "cells": row_cells}
    style = Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
    eighth, seconds = math.pi / 2 / len(BIN_COLOURS), sum(run["seconds"] for run in findings.runs)
    selection, candidates_dropped = selection_charts(findings)
    return templates.get_template("page.html.j2").render(
        findings=findings,
        style=style,
        verdict=verdict(findings),
        first=first_pictures(findings),
        advice=advice(findings),
        explained=explained(findings),
        tiles=_tiles(findings),
        paper=paper_charts(findings, LINES),
        wording=wording,
        floor=floor_cells(findings),
        unseen=unseen_rows(findings),
        pairs=[
            (row, pairs_caption(row), data.embedded(nearest_path(findings.root, row.model, row.evaluations)))
            for row in findings.rows
            if row.nearest is not None
        ],
        samples=[(row, data.embedded(sample_path(findings.root, row.model, row.evaluations))) for row in findings.rows],
        data=data.shown(findings.root, findings.data),
        health=health_lines(findings),
        bins=[(colour, k * eighth, (k + 1) * eighth) for k, colour in enumerate(BIN_COLOURS)],
        training=training_charts(findings),
        progress=progress_chart(findings),
        by_time=by_time_chart(findings),
        selection=selection,
        candidates_dropped=candidates_dropped,
        facts=_facts(findings, seconds),
        stages=[(stage_cells(run), run["seconds"] / seconds if seconds else 0) for run in findings.runs],
        params=_params(findings),
    )


def _tiles(findings: Findings) -> list[tuple[str, str]]:
    """The figures below the first pictures, each with its meaning; empty without students."""
    row, teacher = findings.leading_row, findings.best_teacher
    if row is None:
        return []
    name = {"FD": "Fréchet distance"}.get(findings.distance, findings.distance)
    least = number(findings.floors.distance)
    fewer = teacher.evaluations / row.evaluations
    return [
        (number(row.distance), f"{name} of {row.name} (floor {least})"),
        (f"{number(row.ratio)} ×", f"the teacher's {number(teacher.distance)}"),
        (f"{number(fewer)} ×", f"fewer evaluations, {row.evaluations} instead of {teacher.evaluations}"),
        (f"{row.recall:.0%}", f"recall, the teacher has {teacher.recall:.0%}"),
    ]


def _facts(findings: Findings, seconds: float) -> list[tuple[str, str]]:
    """The run in a few lines."""
    runs = findings.runs
    return [
        ("Preset", findings.preset),
        ("Seed", str(runs[-1]["seed"])),
        ("Commit", _together(commit_of(run) for run in runs)),
        ("Params hash", _together(str(run["params_hash"])[:12] for run in runs)),
        ("Machine", _together(str(run["machine"]) for run in runs)),
        ("Device", _together(device for run in runs if (device := run.get("device")))),
        ("Time, all stages", duration(seconds)),
    ]


def _params(findings: Findings) -> list[tuple[str, str]]:
    """All parameters that the figures depend on, as the evaluate runs recorded them.

    A parameter that differs between models is shown as "sCD: 0.25, sCT: 0.5".
    """
    values: dict[str, dict[str, str]] = {}
    for run in findings.runs:
        if run["stage"] == "evaluate":
            for key, value in (run["chain"] | run["params"]).items():
                values.setdefault(key, {})[display_name(run.get("item") or "")] = str(value)

    def shown(of_model: dict[str, str]) -> str:
        if len(of_model) == len(findings.models) and len(set(of_model.values())) == 1:
            return next(iter(of_model.values()))
        return ", ".join(f"{name}: {text}" for name, text in of_model.items())

    return [(key, shown(of_model)) for key, of_model in sorted(values.items())]


def _together(values: Iterable[str]) -> str:
    """Joins the distinct values: stages may have run on different machines and commits."""
    return "; ".join(dict.fromkeys(values))
