"""The paper's published settings and figures: the one reader of pipelines/paper_tables.yaml."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from scm.base.forms import Positive, Rule, Whole, require
from scm.base.yaml_files import read_mapping
from scm.errors import UserError
from scm.presets.overlays import RESTORE

TABLES = Path("pipelines/paper_tables.yaml")
DATA = {"cifar10": "CIFAR-10", "imagenet64": "ImageNet 64", "imagenet512": "ImageNet 512"}
METHOD = "scd"
"""The one of the paper's methods that the report draws."""
Figures = dict[str, float]
STEPS = ("_1step", "_2step", "")
"""Endings of the keys of a figure: in one step, in two, and in `nfe` evaluations."""


Sized = Positive | dict[str, Positive]
"""A figure, or one for each size of network."""


class _Size(TypedDict):
    mparams: Positive


class _Teacher(TypedDict):
    nfe: Whole
    fid: Sized


class _Method(TypedDict):
    fid_1step: Sized
    fid_2step: Sized


class _Results(TypedDict):
    teacher: _Teacher
    scd: _Method


class Comparison(TypedDict):
    """A comparison with a table of its own: figures by thousands of iterations."""

    fid_1step_at_k: dict[str, Annotated[dict[int, float], Rule(bool, "is empty")]]


def _has_blocks(results: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(isinstance(block, dict) for blocks in results.values() for block in blocks.values())


class Tables(TypedDict):
    """pipelines/paper_tables.yaml, as far as it is read."""

    sizes: dict[str, _Size]
    results: Annotated[
        dict[str, _Results],
        Rule(_has_blocks, "has a method without a mapping of figures"),
    ]


@dataclass(frozen=True)
class Published:
    """A student of the paper; pairs are for one step and for two."""

    data: str  # key of `DATA`
    mparams: float | None  # parameters in millions; None if the paper does not say
    compute: tuple[float, float]  # sampling compute in percent of the teacher's
    ratio: tuple[float, float]  # FID over the teacher's


def read_tables(root: Path) -> dict[str, Any]:
    """All of pipelines/paper_tables.yaml."""
    return dict(require(read_mapping(root / TABLES, RESTORE), Tables, str(TABLES), RESTORE))


def published(root: Path) -> list[Published]:
    """The paper's rows of `METHOD`, one data set after the other, smallest network first.

    Raises:
        UserError: the tables are missing or damaged.
    """
    tables = read_tables(root)
    try:
        return [row for data in DATA for row in _rows(data, tables["results"][data], tables["sizes"])]
    except KeyError as error:
        raise UserError(f"{TABLES}: {error} is missing: {RESTORE}") from None


def figures_of(tables: Mapping[str, Any], row: Mapping[str, Any], segments: int) -> dict[str, Figures]:
    """The paper's figures of each method, for a preset's `paper` block.

    Args:
        tables: the result of `read_tables`.
        row: {dataset, size}, or {dataset, comparison} for a comparison that has its own table.
        segments: segments of the multistep student; its figures at other numbers are left out.

    Returns:
        {"scd": {"fid_1step": 3.66, ...}, ...}; `fid` and `fdd` are at `nfe` network evaluations.

    Raises:
        KeyError: the tables have no such row.
    """
    dataset = row["dataset"]
    if "comparison" in row:
        compared = require(tables[dataset], dict[str, Any], f"{TABLES}: {dataset}", RESTORE)[row["comparison"]]
        by_iterations = require(compared, Comparison, f"{TABLES}: {dataset}.{row['comparison']}", RESTORE)[
            "fid_1step_at_k"
        ]["sCT"]
        return {"sct": {"fid_1step": by_iterations[max(by_iterations)]}}
    blocks = dict(tables["results"][dataset])
    ablation, multistep = blocks.pop("vsd_ablation_M", {}), blocks.pop("multistep_scd", {})
    ending, nfe = {1: ("_1step", {}), 2: ("_2step", {})}.get(segments, ("", {"nfe": segments}))
    if segments in multistep.get("fid", {}):
        blocks["multistep"] = {f"{figure}{ending}": multistep[figure][segments] for figure in ("fid", "fdd")} | nfe
    if ablation and row["size"] == "M":
        blocks["vsd"] = ablation["vsd"]
    wanted = {"nfe", *(f"{figure}{ending}" for figure in ("fid", "fdd") for ending in STEPS)}

    def at_size(value: Any) -> float:
        figure = value[row["size"]] if isinstance(value, Mapping) else value
        if not isinstance(figure, int | float):
            raise KeyError(f"a figure of {dataset}")
        return figure

    return {
        method: {key: at_size(value) for key, value in block.items() if key in wanted}
        for method, block in blocks.items()
    }


def _rows(data: str, results: Mapping[str, Any], sizes: Mapping[str, Any]) -> Iterator[Published]:
    teacher, student = results["teacher"], results[METHOD]
    compute = 100 / teacher["nfe"], 200 / teacher["nfe"]
    for size, fid in teacher["fid"].items() if isinstance(teacher["fid"], Mapping) else [(None, teacher["fid"])]:
        one, two = (student[key] if size is None else student[key][size] for key in ("fid_1step", "fid_2step"))
        yield Published(data, None if size is None else sizes[size]["mparams"], compute, (one / fid, two / fid))
