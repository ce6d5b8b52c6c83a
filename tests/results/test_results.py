"""scm.results.reading: paths and reading of what stages leave under results/."""

from pathlib import Path

import pytest

from scm.errors import UserError
from scm.results.reading import CURVES, METRICS, curve_path, metrics_path, read_curve, read_run, run_names


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
