"""scm.results.reading: paths and reading of what stages leave under results/."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scm.errors import UserError
from scm.pipeline.stage import Stage
from scm.results.reading import (
    CURVES,
    METRICS,
    curve_path,
    metrics_path,
    read_curve,
    read_figures,
    read_nearest,
    read_run,
    run_names,
    run_path,
)
from tests.support.fake_candidate import change_run
from tests.support.fake_results import write_fake_results

ALL = {
    **{f"{name}@{steps}": 0.5 * steps for name in ("accuracy", "fd", "kid", "precision", "recall") for steps in (1, 2)},
    **{"mparams": 0.09, "fd_0@2": 1.5, "fd_floor": 1.4, "images_per_second@2": 900.0},
}
SHOWN = [f"{name}@{steps}" for name in ("fd", "precision", "recall", "accuracy") for steps in (1, 2)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of an earlier version, but for the evaluation of scd, which `Stage.figures` has recorded."""
    write_fake_results(tmp_path, rows=1)
    stage = Stage("evaluate", "scd", cast(Any, SimpleNamespace(root=tmp_path)), cast(Any, None), tmp_path)
    stage.figures(ALL)
    change_run(tmp_path, "evaluate@scd", **stage.extra)
    return tmp_path


def test_run_names_are_those_of_dvc_yaml_in_its_order() -> None:
    assert run_names(["teacher", "scd"]) == [
        *("prepare", "encode", "reference", "train_teacher", "train_student@scd"),
        *("select_ema@teacher", "select_ema@scd", "evaluate@teacher", "evaluate@scd"),
    ]


def test_each_stage_has_its_files() -> None:
    root = Path("p")
    assert metrics_path(root, "encode", None) == Path("p/results/metrics/encode.json")
    assert metrics_path(root, "select_ema", "scd") == Path("p/results/metrics/select-scd.json")
    assert curve_path(root, "train_student", "scd") == Path("p/results/curves/train-scd.csv")
    assert curve_path(root, "train_teacher", None) == Path("p/results/curves/train-teacher.csv")
    assert "train_student" not in METRICS and "evaluate" not in CURVES


def test_a_curve_keeps_exact_numbers_and_leaves_gaps_out(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("images,loss,lr\n1,0.1,\n2,nan,1e-3\n")
    assert read_curve(path) == [{"images": 1.0, "loss": 0.1}, {"images": 2.0, "lr": 0.001}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no rows"),
        ("images,loss\n", "has no rows"),
        ("images,loss\n1,high\n", "line 2: loss is 'high', not a number"),
        ("images,loss\n1,2\n3\n", "line 3 is cut short or too long"),
        ("images,loss\n1,2,3\n", "line 2 is cut short or too long"),
    ],
)
def test_damaged_curves_are_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{path}.*{fault}"):
        read_curve(path)


def test_a_run_file_must_be_complete(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"key": "a", "stage": "prepare"}')
    with pytest.raises(UserError, match=r"lacks name, preset, seed, started, .*: delete it"):
        read_run(path)


def test_dvc_shows_four_figures_of_an_evaluation_and_a_reader_gets_all(results: Path) -> None:
    content = json.loads(metrics_path(results, "evaluate", "scd").read_text())
    assert list(content) == ["scd"] and list(content["scd"]) == SHOWN
    assert read_figures(results, "evaluate", "scd", "mparams") == ALL
    with pytest.raises(UserError, match=r"evaluate@scd\.json lacks fd_inf@2"):
        read_figures(results, "evaluate", "scd", "fd_inf@2")


def test_a_checkout_of_git_alone_has_the_figures_that_dvc_shows(results: Path) -> None:
    run_path(results, "evaluate@scd").unlink()
    assert read_figures(results, "evaluate", "scd") == {name: ALL[name] for name in SHOWN}


def test_figures_of_earlier_versions_are_read_from_where_they_wrote_them(results: Path) -> None:
    assert read_figures(results, "prepare", None) == {"images": 1797, "classes": 10, "skipped": 0}
    assert {"kid@35", "mparams", "fd_floor"} <= read_figures(results, "evaluate", "teacher").keys()
    change_run(results, "prepare", figures={"images": 3, "skipped": None})
    assert read_figures(results, "prepare", None) == {"images": 3}  # not those of the file that is left behind
    assert math.isnan(read_figures(results, "prepare", None, finite=False)["skipped"])


def test_two_files_of_different_evaluations_are_refused(results: Path) -> None:
    change_run(results, "evaluate@scd", figures={**ALL, "recall@2": 0.3})
    with pytest.raises(UserError, match=r"evaluate-scd\.json and .*different evaluations: run `dvc checkout`"):
        read_figures(results, "evaluate", "scd")
    path = run_path(results, "evaluate@scd")  # now as of an earlier version
    run = json.loads(path.read_text())
    del run["figures"]
    path.write_text(json.dumps(run))
    with pytest.raises(UserError, match="different evaluations"):
        read_figures(results, "evaluate", "scd")


def test_nearest_pairs_are_in_the_run_file_or_where_earlier_versions_wrote_them(results: Path) -> None:
    told = {"threshold": 0.2, "pairs": [{"seed": 7, "distance": 0.1}]}
    (results / "results/samples/scd/nearest-2.json").write_text(json.dumps(told))
    assert read_nearest(results, "scd", 2) == told
    new = {**told, "threshold": 0.3}
    change_run(results, "evaluate@scd", nearest={"2": new})
    assert read_nearest(results, "scd", 2) == new
    with pytest.raises(UserError, match=r"evaluate@scd\.json lacks nearest\.1"):
        read_nearest(results, "scd", 1)
