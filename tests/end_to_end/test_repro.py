"""The pipeline for real: `dvc repro` of digits-smoke, what it reruns, what it leaves, and how it survives."""

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from scm.results.reading import read_figures
from tests.end_to_end.conftest import Run, copy_project, edit, environment, locked, run_stage, scm_here
from tests.support.processes import Program, programs_together

pytestmark = pytest.mark.slow

MODELS = ("teacher", "scd", "sct")
STEPS = {"teacher": (2, 11), "scd": (1, 2), "sct": (1, 2)}
STAGES = [
    "prepare", "encode", "reference", "train_teacher", "train_student@scd", "train_student@sct",
    *(f"select_ema@{model}" for model in MODELS), *(f"evaluate@{model}" for model in MODELS), "report",
]  # fmt: skip


@pytest.fixture(autouse=True)
def same_params(project: Path):
    """Each test finds params.yaml as the pipeline ran with it."""
    text = (project / "params.yaml").read_text()
    yield
    (project / "params.yaml").write_text(text)


def repro(run: Run, *command: str) -> tuple[set[str], set[str]]:
    """Stages that `dvc repro`, or another command, ran, and those that it took from the run cache."""
    text = run(*command or ("dvc", "repro")).stdout
    cached = set(re.findall(r"Stage '(.+?)' is cached", text))
    return set(re.findall(r"Running stage '(.+?)'", text)) - cached, cached


def planned(project: Path) -> tuple[set[str], set[str], dict[str, dict]]:
    """Stages that `scm plan` says run, those that it says are restored, and its JSON by stage."""
    stages = json.loads(scm_here(project, "plan", "--json").stdout)["stages"]
    by_status = [{stage["name"] for stage in stages if stage["status"] == status} for status in ("runs", "restored")]
    return by_status[0], by_status[1], {stage["name"]: stage for stage in stages}


def md5s(project: Path) -> dict[str, dict[str, str]]:
    """Of each stage the outputs' hashes."""
    return {
        stage: {out["path"]: out["md5"] for out in entry["outs"] if "results/" not in out["path"]}
        for stage, entry in locked(project).items()
    }


def test_everything_ran_and_nothing_is_left_to_do(project, run):
    lock = YAML(typ="safe").load((project / "dvc.lock").read_text())
    assert set(lock["stages"]) == set(STAGES)
    assert json.loads(run("dvc", "status", "--json").stdout) == {}
    assert repro(run) == (set(), set())
    assert run("git", "status", "--porcelain", "--", "scm", "stages", "params.yaml", "dvc.yaml", "data").stdout == ""


def test_the_figures_are_dvc_metrics(project, run):
    shown = json.loads(run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    names = ("fd", "precision", "recall", "accuracy")
    columns = {model: [f"{name}@{nfe}" for name in names for nfe in steps] for model, steps in STEPS.items()}
    assert [shown[f"results/metrics/evaluate-{model}.json"]["data"] for model in MODELS] == [
        {model: {name: pytest.approx(read_figures(project, "evaluate", model)[name]) for name in columns[model]}}
        for model in MODELS
    ]
    teacher, student = (read_figures(project, "evaluate", model) for model in ("teacher", "scd"))
    assert {
        "sigma_rel",
        *(f"{name}@{nfe}" for name in ("kid", "images_per_second") for nfe in (2, 11)),
    } <= teacher.keys()
    assert {"sigma_rel", "t_mid@2", "kid@1", "images_per_second@2"} <= student.keys()
    assert teacher["fd@11"] < teacher["fd@2"]
    choice = read_figures(project, "select_ema", "scd")
    curve = (project / "results/curves/select-scd.csv").read_text().splitlines()
    rows = list(csv.DictReader(curve))
    assert [row["steps"] for row in rows] == ["2"] * 2 * 2 + ["1"]
    assert choice["fd"] == min(float(row["fd"]) for row in rows[:4]) and choice["fd_1step"] == float(rows[4]["fd"])
    plots = json.loads(run("dvc", "plots", "show", "--json").stdout)["data"]
    shown = [each.get("calculate") for each in plots["results/curves/train-scd.csv"][0]["content"]["transform"]]
    assert shown[:2] == ["toNumber(datum['images'])", "toNumber(datum['sample_fd'])"]
    assert {"results/plots/progress.csv", "results/curves/select-teacher.csv"} < plots.keys()
    grids = {path for path in plots if path.endswith(".png")}
    assert {f"results/samples/{model}/nfe-{nfe}.png" for model in MODELS for nfe in STEPS[model]} < grids


def test_the_grids_show_the_same_classes_for_every_model(project):
    sizes = set()
    for model in MODELS:
        for path in (project / "results/samples" / model).glob("nfe-*.png"):
            with Image.open(path) as picture:
                sizes.add(picture.size)
    assert len(sizes) == 1
    for model, evaluations in (("teacher", (2, 11)), ("sct", (1, 2))):
        expected = {f"{name}-{nfe}.png" for name in ("nfe", "nearest") for nfe in evaluations}
        assert {path.name for path in (project / "results/samples" / model).iterdir()} == expected


def test_a_students_parameter_reruns_that_student_and_what_follows(project, run):
    before = md5s(project)
    old = edit(project, "student.sct.images", 768)
    runs, restored, stages = planned(project)
    known = rows(project)["runs"]
    ran, _ = repro(run, "scm", "run")  # imports mlflow once, where `dvc repro` does so for each stage
    assert (runs, restored) == (ran, set()) and rows(project)["runs"] == known + len(ran - {"report"})
    assert stages["train_student@sct"]["reasons"] == [f"params: student.sct.images: {old} -> 768"]
    assert stages["evaluate@sct"]["reasons"] == ["upstream: select_ema@sct"]
    assert all(stages[stage]["seconds"] > 0 for stage in runs) and stages["train_student@sct"]["about"]
    assert ran == {"train_student@sct", "select_ema@sct", "evaluate@sct", "report"}
    after = md5s(project)
    assert {stage for stage in STAGES if before[stage] != after[stage]} <= ran
    assert before["train_student@sct"] != after["train_student@sct"]
    edit(project, "student.sct.images", old)
    runs, restored, _ = planned(project)
    assert runs == {"report"}  # that its folders will be as they were before cannot be told
    ran, cached = repro(run)
    assert restored | runs == cached
    assert ran == set() and {"train_student@sct", "select_ema@sct", "evaluate@sct"} <= cached
    assert md5s(project) == before


def test_a_plan_without_data_and_outputs(project, run, tmp_path):
    """In a clone; what its code changes is what `dvc status` sees in the project, and what follows."""
    run("git", "add", ".")
    run("git", "commit", "-qm", "ran", "--allow-empty")
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(project), str(clone))
    runs, restored, stages = planned(clone)
    assert (runs, restored, set(stages)) == (set(), set(), set(STAGES))
    assert {stage["missing"] for stage in stages.values()} == {"dvc pull"}
    assert scm_here(clone, "plan", "--check").stdout.splitlines()[-1] == "no stage of 13 runs"
    for folder in (project, clone):
        with (folder / "scm/objectives/consistency.py").open("a") as file:
            file.write("# other code\n")
    students = {"train_student@scd", "train_student@sct"}
    runs, _, stages = planned(clone)
    assert students == json.loads(run("dvc", "status", "--json").stdout).keys()
    assert runs == students | {f"{stage}@{model}" for stage in ("select_ema", "evaluate") for model in MODELS[1:]} | {
        "report"
    }
    assert stages["train_student@scd"]["reasons"] == ["code: scm/objectives/consistency.py"]
    scm_here(clone, "plan", "--check", code=10)
    run("git", "checkout", "-q", "scm")


def test_how_it_runs_reruns_nothing(project, run):
    changes = {"runtime.log_every": "1Ki", "runtime.threads": 2, "mlflow.experiment": "x", "publish.allowed": 0.5}
    for key, value in changes.items():
        edit(project, key, value)
    assert repro(run) == (set(), set())


def test_an_experiment_changes_one_parameter_and_is_compared(project, run):
    edit(project, "mlflow.enabled", False)
    run("git", "add", ".")
    run("git", "commit", "-qm", "baseline", "--allow-empty")
    text = run("dvc", "exp", "run", "-S", "evaluate.seed=2000000", "evaluate@scd").stdout
    assert set(re.findall(r"Running stage '(.+?)'", text)) == {"evaluate@scd"}
    assert "evaluate.seed" in run("dvc", "params", "diff").stdout
    assert "fd@2" in run("dvc", "metrics", "diff").stdout
    assert "fd@2" in run("dvc", "exp", "show", "--csv").stdout
    run("git", "checkout", "-q", ".")
    run("dvc", "checkout", "-q")


def test_the_report_is_whole(project):
    page = (project / "results/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert all(name in page for name in ("train_teacher", "digits-smoke"))
    assert "| sCD" in (project / "results/report.md").read_text()


def rows(project: Path) -> dict[str, int]:
    with sqlite3.connect(project / "mlflow.db") as store:
        return {
            table: store.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("runs", "metrics", "params", "tags")
        }


def test_every_stage_is_a_run_and_sync_adds_nothing(project):
    scm_here(project, "sync")
    before = rows(project)
    assert before["runs"] >= len(STAGES) - 1 and before["metrics"] > 100
    assert "0 new" in scm_here(project, "sync").stdout
    assert rows(project) == before


def test_samples_are_drawn_by_name_class_and_seed(run, scm, tmp_path):
    options = ("sample", "--model", "scd", "--steps", "2", "-n", "4", "--seed", "0", "--classes", "3,7", "-o")
    run("scm", *options, str(tmp_path / "a.png"))
    scm(*options, str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    scm("sample", "--model", "teacher", "--steps", "3", "-n", "2", "-o", str(tmp_path / "c.png"))
    assert (tmp_path / "c.png").exists()


def test_bad_parameters_end_a_stage_with_one_line(project, capsys):
    edit(project, "student.common.p_mean", "low")
    run_stage(project, "stages.train_student", "scd", code=1)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'student.common.p_mean = "low"' in error


class Trainer:
    """stages.train_teacher in a process of its own, on a work folder of its own."""

    def __init__(self, project: Path, work: Path, *, parent: bool = False) -> None:
        kept, extra = environment(), {"SCM_WORK": str(work)}
        if not parent:
            self.process = Program("stages.train_teacher", cwd=project, env={**kept, **extra})
        else:  # as under dvc: a parent that may die, and its shell, which is not to stay in between
            stages = YAML(typ="safe", pure=True).load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
            shell = ["/bin/sh", "-c", stages["train_teacher"]["cmd"]]
            command = [sys.executable, "-c", f"import subprocess; subprocess.run({shell})"]
            extra["DVC_ROOT"] = str(project)
            del kept["SCM_STARTED"]  # the stage starts again, with other settings of malloc, as it does for users
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self.process = subprocess.Popen(command, cwd=project, env={**kept, **extra}, **output)

    def wait_for(self, text: str) -> str:
        assert self.process.stdout
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                return line
        pytest.fail("".join(seen))

    def end(self) -> str:
        return self.process.communicate(timeout=300)[0]


@pytest.fixture
def fine(tmp_path: Path, project: Path) -> Path:
    """The finished project's copy in which checkpoints are frequent."""
    folder = copy_project(project, tmp_path / "copy")
    shutil.rmtree(folder / "models/teacher/snapshots")
    edit(folder, "runtime.log_every", 64)
    edit(folder, "runtime.checkpoint_every", 256)
    edit(folder, "mlflow.enabled", False)
    return folder


def test_after_kill_9_at_any_moment_the_final_weights_are_bit_equal(project, fine, tmp_path):
    expected = {file.name: file.read_bytes() for file in (project / "models/teacher/snapshots").iterdir()}
    work = tmp_path / "work"
    for steps in (2, 6, 9):  # before the first checkpoint, which four steps make, after it, and after a resumption
        trainer = Trainer(fine, work)
        for _ in range(steps):
            trainer.wait_for("ETA")
        trainer.process.kill()
        trainer.end()
        assert trainer.process.returncode == -signal.SIGKILL
    last = Trainer(fine, work)
    assert "resuming at" in last.wait_for("resuming")
    assert last.end() and last.process.returncode == 0
    assert {file.name: file.read_bytes() for file in (fine / "models/teacher/snapshots").iterdir()} == expected


def test_a_second_trainer_refuses_and_a_signal_ends_with_75(fine, tmp_path):
    edit(fine, "teacher.images", "64Ki")
    first = Trainer(fine, tmp_path / "work")
    first.wait_for("ETA")
    second = Trainer(fine, tmp_path / "work")
    text = second.end()
    assert second.process.returncode == 1
    assert re.search(
        rf"error: train_teacher is already running \(process {first.process.pid}\) on .+: wait for it", text
    )
    first.process.terminate()
    assert "run the same command to go on" in first.end()
    assert first.process.returncode == 75


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's death on Linux only")
def test_a_trainer_dies_with_its_parent(fine, tmp_path):
    edit(fine, "teacher.images", "64Ki")
    trainer = Trainer(fine, tmp_path / "work", parent=True)
    trainer.wait_for("ETA")
    trainer.process.kill()
    assert "run the same command to go on" in trainer.end()  # when nobody holds its output any more


def test_two_processes_measure_what_one_does_and_further_seeds_beside_it(tmp_path, project):
    """The first range of seeds is that of a single one; selection measures what it measured alone."""
    folder = copy_project(project, tmp_path / "copy")
    shutil.rmtree(folder / "results/samples/scd")
    edit(folder, "runtime.processes", 2)
    edit(folder, "evaluate.repeats", 2)
    edit(folder, "mlflow.enabled", False)
    same = [f"models/scd/{name}" for name in ("model.safetensors", "sampling.json")]
    for name in same:
        (folder / name).unlink()
    for stage in ("select_ema", "evaluate"):
        lines = programs_together(2, f"stages.{stage}", "scd", cwd=folder, env=environment()).splitlines()
        assert lines and len(lines) == len(set(lines)), "each is said once"
    for name in same:
        assert (folder / name).read_bytes() == (project / name).read_bytes()
    found, before = (read_figures(root, "evaluate", "scd") for root in (folder, project))
    assert found["fd_0@2"] == pytest.approx(before["fd@2"], rel=1e-9) and found["fd_1@2"] != found["fd_0@2"]
    assert found["fd@2"] == min(found["fd_0@2"], found["fd_1@2"])
    for name in ("nfe-1.png", "nfe-2.png"):
        path = f"results/samples/scd/{name}"
        assert (folder / path).read_bytes() == (project / path).read_bytes()
