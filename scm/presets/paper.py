"""The paper's published settings and figures: the one reader of pipelines/paper_tables.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.base.yaml_files import parse_mapping, read_text
from scm.errors import UserError

TABLES = Path("pipelines/paper_tables.yaml")

DATA = {"cifar10": "CIFAR-10", "imagenet64": "ImageNet 64", "imagenet512": "ImageNet 512"}

METHOD = "scd"
"""Of the paper's methods the one that is drawn."""


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
