"""The table of `scm plan --memory`: settings for each number of GPUs, and what to change where nothing fits."""

import json

import pytest

from scm.build import memory_table as table
from scm.build.memory import Counted, Line, Peak, Peaks
from scm.cli import main
from tests.support.projects import make_project, params_with

GIB = 2**30


@pytest.fixture
def large(monkeypatch):
    """Trainings that need 40 GiB of weights, 20 of gradients, 40 that are divisible, and 1 GiB an image."""
    peak = Peak((Line(0, GIB),))
    counted = Counted(40 * GIB, 20 * GIB, 40 * GIB, 0, lambda way: Peaks(peak, peak))
    monkeypatch.setattr(table, "count", lambda *training: counted)


def params(**runtime):
    changes = {f"runtime.{key}": value for key, value in runtime.items()}
    students = {"student.methods": {"scd": "teacher"}, "evaluate.models": ["teacher", "scd"]}
    return params_with({"teacher.batch": 256, "student.common.batch": 24, **students, **changes})


def test_each_training_has_a_row_for_each_gpu(large):
    found = table.fits(params(), 3)
    head, rows = table.rows(found)
    assert head == ["training", "GPU", "1 GPU", "8 GPUs", "16 GPUs", "32 GPUs", "64 GPUs"]
    teacher = ["no: 100.0 + 1.0 (1*)", "65.0 + 4.0 (4)", "42.5 + 16.0 (16)", "41.2 + 8.0 (8)", "40.6 + 4.0 (4)"]
    assert rows[0] == ["teacher", "80 GB", *teacher]
    assert rows[3] == ["scd", "141 GB", "80.0 + 24.0 (24)", "45.0 + 3.0 (3)", "-", "-", "-"]


def test_what_does_not_fit_is_said_with_the_key_to_change(large):
    def said(**runtime):
        given = params(**runtime)
        return table.remarks(given, table.fits(given, 3))

    assert said() == [
        "teacher does not fit 1 x 80 GB: its state alone is 100.0 GiB; use more or larger GPUs, or set a smaller "
        "network.width",
        "scd: 16, 32, 64 GPUs cannot share student.scd.batch = 24 equally (-)",
        "scd does not fit 1 x 80 GB: its state alone is 100.0 GiB; use more or larger GPUs, or set a smaller "
        "network.width",
    ]
    assert said(micro_batch=32)[0].endswith(": set runtime.micro_batch: auto")


def test_the_command_prints_the_table_or_its_values(large, tmp_path, monkeypatch, capsys):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scm.pipeline.plan.plan", lambda *project: [])
    assert main(["plan", "--memory"]) == 0
    out = capsys.readouterr().out
    assert "8 GPUs" in out and "scd does not fit 1 x 80 GB" in out
    assert main(["plan", "--memory", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["memory"][0]
    assert first == {
        "training": "teacher", "gpus": 1, "gigabytes": 80, "shard": "none", "batch": 128, "micro_batch": 1,
        "checkpointing": "blocks", "state": 100 * GIB, "activations": GIB, "fits": False,
    }  # fmt: skip
    assert main(["plan", "--json"]) == 0 and "memory" not in json.loads(capsys.readouterr().out)
