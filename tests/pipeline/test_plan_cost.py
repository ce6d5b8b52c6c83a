"""How long a plan will take: from run files, from MLflow, or not known."""

import json
import socket
import time
from pathlib import Path

import pytest

from scm.params.project import Project
from scm.pipeline import plan_cost
from scm.pipeline.plan import RESTORED, RUNS, UP_TO_DATE, Step
from scm.pipeline.plan_cost import Estimate, estimates
from scm.pipeline.plan_table import as_json, table
from scm.tracking import sending, store
from scm.tracking.records import RunRecord
from tests.support.projects import params_with


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLFLOW_* variables of the user, and none left behind."""
    for name in [*store.DEFAULTS, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def write_run(root: Path, name: str, seconds: object = 100.0, **params: object) -> None:
    path = root / "results/runs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds, "params": params}))


def project_in(root: Path, **mlflow: object) -> Project:
    """A project whose MLflow is off unless `mlflow` says otherwise."""
    return Project(root, params_with({f"mlflow.{key}": value for key, value in {"enabled": False, **mlflow}.items()}))


def one(project: Project, name: str, **params: object) -> Estimate:
    return estimates(project, [Step(name, RUNS, ["code: x"], None, params)])[name]


def test_the_run_file_says_it(tmp_path):
    write_run(tmp_path, "encode", 12.5, **{"codec.name": "identity"})
    assert one(project_in(tmp_path), "encode", **{"codec.name": "identity"}) == Estimate(12.5, about=False)
    assert one(project_in(tmp_path), "encode", **{"codec.name": "tae"}) == Estimate(12.5, about=True)
    assert one(project_in(tmp_path), "reference") == Estimate(None)
    assert one(project_in(tmp_path), "report") == Estimate(5.0, about=True)


def test_what_does_not_run_takes_no_time(tmp_path):
    write_run(tmp_path, "encode")
    for status in (UP_TO_DATE, RESTORED):
        assert estimates(project_in(tmp_path), [Step("encode", status)]) == {"encode": Estimate(0.0)}


@pytest.mark.parametrize(
    ("name", "before", "now", "seconds"),
    [
        ("train_teacher", {"teacher.images": "2Ki"}, {"teacher.images": 1024}, 50.0),
        ("train_teacher", {"teacher.images": "64Ki"}, {"teacher.images": "8Mi"}, 12800.0),
        ("train_student@sct", {"student.sct.images": "1Ki"}, {"student.sct.images": "3Ki"}, 300.0),
        ("train_student@sct", {"student.scd.images": "1Ki"}, {"student.scd.images": "3Ki"}, 100.0),
        ("select_ema@scd", {"select.samples": 100}, {"select.samples": 150}, 150.0),
        (
            "evaluate@scd",
            {"evaluate.samples": 1000, "evaluate.repeats": 1},
            {"evaluate.samples": 500, "evaluate.repeats": 3},
            150.0,
        ),
        ("train_teacher", {"teacher.images": "1Ki", "network.width": 8}, {"network.width": 16}, 100.0),
        ("train_teacher", {"teacher.batch": 64}, {"teacher.batch": 128}, 100.0),
        ("train_teacher", {"teacher.images": "many"}, {"teacher.images": "1Ki"}, 100.0),
    ],
)
def test_a_changed_budget_is_in_proportion_and_about(tmp_path, name, before, now, seconds):
    write_run(tmp_path, name, **before)
    assert one(project_in(tmp_path), name, **now) == Estimate(seconds, about=True)


@pytest.mark.parametrize("text", ["", "{}", '{"seconds": "long", "params": {}}', '{"seconds": 1}', "[]"])
def test_a_damaged_run_file_says_nothing(tmp_path, text):
    write_run(tmp_path, "encode")
    (tmp_path / "results/runs/encode.json").write_text(text)
    assert one(project_in(tmp_path), "encode") == Estimate(None)


def test_an_imported_teacher_says_nothing_of_training_one(tmp_path):
    write_run(tmp_path, "train_teacher", 2.0, **{"imported.file": "teacher.pkl"})
    assert one(project_in(tmp_path), "train_teacher", **{"teacher.images": "1Ki"}) == Estimate(None)


def test_mlflow_says_what_no_run_file_says(tmp_path, capsys):
    project = project_in(tmp_path, enabled=True)
    settings = project.tracking
    assert one(project, "encode") == Estimate(None)
    assert not (tmp_path / "mlflow.db").exists()  # a plan makes no store
    client = store.connect(settings)

    def send(key: str, stage: str, item: str | None, started: float, seconds: float, **changes: object) -> None:
        params = {"student.sct.images": 1024} if item else {"imported.file": "x"}
        values = {"params": params, "tags": {"scm.preset": "digits"}, "status": "FINISHED", **changes}
        sending.send(
            client, RunRecord(key, key, stage, item, started=started, ended=started + seconds, **values), settings
        )

    send("old", "train_student", "sct", 1.7e9, 900.0)
    send("new", "train_student", "sct", 1.8e9, 60.0)
    send("killed", "train_student", "sct", 1.9e9, 1.0, status="KILLED")
    send("other", "train_student", "scd", 1.8e9, 7.0)
    send("elsewhere", "encode", None, 1.8e9, 7.0, tags={"scm.preset": "imagenet64-s"})
    send("imported", "train_teacher", None, 1.8e9, 7.0)
    assert one(project, "train_student@sct", **{"student.sct.images": "1Ki"}) == Estimate(60.0, about=True)
    assert one(project, "train_student@sct", **{"student.sct.images": 1024}) == Estimate(60.0)
    assert one(project, "train_student@sct", **{"student.sct.images": "2Ki"}) == Estimate(120.0, about=True)
    assert one(project, "encode") == one(project, "train_teacher") == Estimate(None)
    write_run(tmp_path, "train_student@sct", 5.0)
    assert one(project, "train_student@sct") == Estimate(5.0)
    assert one(project_in(tmp_path), "train_student@sct") == Estimate(5.0)
    assert "mlflow:" not in capsys.readouterr().err


def test_a_server_that_never_answers_costs_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan_cost, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        project = project_in(tmp_path, enabled=True, uri=f"http://me:secret@{address}")
        started = time.monotonic()
        assert one(project, "encode") == Estimate(None)
        assert time.monotonic() - started < 5
    expected = f"mlflow: no answer within 0 s (http://{address}); stages that only it knows have no estimate\n"
    assert capsys.readouterr().err == expected


def lines_of(*steps: tuple[Step, Estimate]) -> list[str]:
    return table([step for step, _ in steps], {step.name: estimate for step, estimate in steps})


def test_the_table():
    lines = lines_of(
        (Step("prepare", UP_TO_DATE), Estimate(0.0)),
        (Step("encode", UP_TO_DATE, missing="dvc pull"), Estimate(0.0)),
        (Step("reference", RESTORED, ["params: seed: 1 -> 0"]), Estimate(0.0)),
        (
            Step("train_teacher", RUNS, ["params: a: 1 -> 2", "code: b", "upstream: prepare"]),
            Estimate(7300.0, about=True),
        ),
        (Step("evaluate@scd", RUNS, ["upstream: train_teacher", "upstream: encode"]), Estimate(80.0)),
        (Step("report", RUNS, [f"params: {key}: 1 -> 2" for key in "abcdefg"]), Estimate(None)),
    )
    assert lines == [
        "prepare        up to date",
        "encode         up to date               outputs missing: dvc pull",
        "reference      restored                 params: seed: 1 -> 0",
        "train_teacher  runs        about 2.0 h  params: a: 1 -> 2",
        "                                        code: b",
        "                                        upstream: prepare",
        "evaluate@scd   runs        80 s         upstream: train_teacher, encode",
        "report         runs        unknown      params: a: 1 -> 2",
        *(f"                                        params: {key}: 1 -> 2" for key in "bcde"),
        "                                        and 2 more: scm plan --json",
        "",
        "3 of 6 stages run: at least 2.0 h (1 of unknown time); 1 restored from the run cache",
    ]


@pytest.mark.parametrize(
    ("costs", "last", "seconds"),
    [
        ([], "no stage of 0 runs", 0.0),
        ([None], "1 of 1 stages run: time unknown", None),
        ([100.0], "1 of 1 stages run: 2 min", 100.0),
        ([100.0, None, None], "3 of 3 stages run: at least 2 min (2 of unknown time)", 100.0),
        ([5400.0, 0.0], "2 of 2 stages run: 1.5 h", 5400.0),
    ],
)
def test_the_sum(costs, last, seconds):
    steps = [Step(str(number), RUNS, ["code: x"]) for number in range(len(costs))]
    estimated = {str(number): Estimate(cost) for number, cost in enumerate(costs)}
    assert table(steps, estimated)[-1] == last
    assert as_json(steps, estimated)["seconds"] == seconds


def test_many_stages_upstream_are_cut(tmp_path):
    step = Step("report", RUNS, [f"upstream: {name}" for name in "abcdefg"])
    assert lines_of((step, Estimate(5.0)))[0].endswith("upstream: a, b, c, d, e, and 2 more")
