"""The paper's figures 1 and 6 for whatever was run: distances as multiples of the teacher's, over compute and size.

As a ratio the paper's results (pipelines/paper_tables.yaml) stand beside those on other data and other features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.errors import UserError
from scm.figures import Drawing, Line
from scm.report import Findings, Row, display_name
from scm.yaml_files import parse_mapping, read_text

TABLES = Path("pipelines/paper_tables.yaml")
DATA = {"cifar10": "CIFAR-10", "imagenet64": "ImageNet 64", "imagenet512": "ImageNet 512"}
METHOD = "scd"
"""Of the paper's methods the one that is drawn."""
GREYS = ("#868e96", "#adb5bd", "#ced4da")


@dataclass(frozen=True)
class Published:
    """A student of the paper.

    Attributes:
        data: key of `DATA`.
        mparams: parameters in millions; None where the paper does not say.
        compute: sampling compute in percent of the teacher's, of one step and of two.
        ratio: FID over the teacher's, of one step and of two.
    """

    data: str
    mparams: float | None
    compute: tuple[float, float]
    ratio: tuple[float, float]


def published(root: Path) -> list[Published]:
    """The paper's rows of `METHOD`, a data set after the other, smallest network first.

    Raises:
        UserError: the tables are missing or damaged.
    """
    tables = parse_mapping(read_text(root / TABLES, "restore it with `git checkout`"), str(TABLES))
    try:
        return [row for data in DATA for row in _rows(data, tables["results"][data], tables["sizes"])]
    except (KeyError, TypeError) as error:
        raise UserError(f"{TABLES}: {error} is missing or no table: restore it with `git checkout`") from None


def _rows(data: str, results: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[Published]:
    teacher, student = results["teacher"], results[METHOD]
    compute = 100 / teacher["nfe"], 200 / teacher["nfe"]
    if not isinstance(teacher["fid"], Mapping):
        return [Published(data, None, compute, _ratios(teacher["fid"], student["fid_1step"], student["fid_2step"]))]
    return [
        Published(
            data, sizes[size]["mparams"], compute, _ratios(fid, student["fid_1step"][size], student["fid_2step"][size])
        )
        for size, fid in teacher["fid"].items()
    ]


def _ratios(teacher: float, one: float, two: float) -> tuple[float, float]:
    return one / teacher, two / teacher


def drawings(findings: Findings, colours: tuple[str, ...]) -> list[Drawing]:
    """Ratio over compute and ratio over size; none without students. The paper's rows are dashed and grey."""
    students = [model for model in findings.models if any(_students(findings, model))]
    if not students:
        return []
    rows = published(findings.root)
    over_compute, over_size = [], []
    for model, colour in zip(students, colours * len(students), strict=False):
        own = sorted(_students(findings, model), key=lambda row: row.evaluations)
        shares = [100 * row.compute / findings.best_teacher.compute for row in own]
        ratios, name = [row.ratio for row in own], display_name(model)
        over_compute.append(Line(shares, ratios, colour, name, points=True))
        most = own[-1]
        over_size.append(
            Line(
                [most.compute / most.evaluations], [most.ratio], colour, f"{name}, {most.evaluations} NFE", points=True
            )
        )
    for (data, name), grey in zip(DATA.items(), GREYS, strict=True):
        largest = [row for row in rows if row.data == data][-1]
        label = f"paper, sCD, {name}"
        over_compute.append(Line(largest.compute, largest.ratio, grey, label, dashed=True, points=True))
        sized = [(row.mparams, row.ratio[1]) for row in rows if row.data == data and row.mparams is not None]
        if sized:
            x, y = zip(*sized, strict=True)
            over_size.append(Line(x, y, grey, f"{label}, 2 NFE", dashed=True, points=True))
    return [
        Drawing("Distance over sampling compute", "sampling compute, % of the teacher's", over_compute, True),
        Drawing("Distance over size", "parameters, millions", over_size, True, logarithmic_x=True),
    ]


def _students(findings: Findings, model: str) -> list[Row]:
    return [row for row in findings.rows if row.model == model != "teacher"]
