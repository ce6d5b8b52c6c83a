"""`scm plan` against DVC itself, on a small project in the shape of the real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from dvc.repo import Repo

from scm import cli
from scm.errors import UserError
from scm.params.project import Project
from scm.pipeline.plan import RESTORED, RUNS, UP_TO_DATE, UPSTREAM, Step, plan
from tests.support import plan_projects as projects

SCD_VSD = {
    "images": "48Ki", "dropout": 0.0, "tangent_warmup": 0,
    "lr": {"max": 5e-4, "warmup": 0, "decay": "constant", "decay_from": 0},
    "vsd": {"weight": 1.0, "p_mean": 0.4, "p_std": 2.0},
    "fake_score": {"lr_max": 5e-4, "dropout": 0.0, "p_mean": -0.8, "p_std": 1.6, "updates": 1},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")
"""DVC calls pygtrie in a deprecated way."""
MODELS = ("teacher", "scd", "sct")
STAGES = {
    "prepare", "train_teacher", "train_student@scd", "train_student@sct", *(f"select_ema@{model}" for model in MODELS),
    *(f"evaluate@{model}" for model in MODELS), "report",
}  # fmt: skip
AFTER_TEACHER = STAGES - {"prepare", "train_teacher"}


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "DVC_", "GIT_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything has run, committed."""
    folder = projects.make(tmp_path_factory.mktemp("finished"))
    projects.dvc(folder, "repro", "--quiet")
    projects.git(folder, "add", ".")
    projects.git(folder, "commit", "-qm", "ran")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "project")


@pytest.fixture
def clone(finished: Path, tmp_path: Path) -> Path:
    """What git has of it: neither images nor outputs nor cache."""
    projects.git(finished, "clone", "-q", str(finished), str(tmp_path / "clone"))
    return tmp_path / "clone"


def planned(folder: Path, assume_data: bool = False) -> dict[str, Step]:
    return {step.name: step for step in plan(Project.open(folder), assume_data)}


def names(steps: dict[str, Step], *statuses: str) -> set[str]:
    return {name for name, step in steps.items() if step.status in statuses}


def stale(folder: Path) -> set[str]:
    """Stages of which `dvc status` says that something that it sees has changed."""
    with closing(Repo(str(folder))) as repo:
        return {name.rpartition(":")[2] for name in repo.status()}


def own_reasons(steps: dict[str, Step]) -> set[str]:
    """Stages with a reason that is not another stage."""
    return {name for name, step in steps.items() if any(not reason.startswith(UPSTREAM) for reason in step.reasons)}


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    return change


def set_value(name: str, key: str, value: object) -> Callable[[Path], None]:
    return lambda folder: projects.edit(folder, name, key, value)


def follows(stage: str) -> set[str]:
    """A student and what follows from it."""
    model = stage.partition("@")[2]
    return {f"{name}@{model}" for name in ("train_student", "select_ema", "evaluate")} | {"report"}


CHANGES = {
    "nothing": (lambda _: None, set(), None, []),
    "runtime": (set_value("params.yaml", "runtime.threads", 7), set(), None, []),
    "mlflow": (set_value("params.yaml", "mlflow.experiment", "x"), set(), None, []),
    "a student's parameter": (
        set_value("params.yaml", "student.sct.images", "128Ki"),
        follows("@sct"), "train_student@sct", ["params: student.sct.images: 64Ki -> 128Ki"],
    ),
    "a parameter in a mapping": (
        set_value("params.yaml", "teacher.lr.max", 0.01),
        AFTER_TEACHER | {"train_teacher"}, "train_teacher", ["params: teacher.lr.max: 0.007 -> 0.01"],
    ),
    "two parameters": (
        lambda folder: [
            projects.edit(folder, "params.yaml", "data.on_bad_image", "skip"),
            projects.edit(folder, "params.yaml", "data.shard_images", 1024),
        ],
        STAGES, "prepare", ["params: data.on_bad_image: error -> skip", "params: data.shard_images: 4Ki -> 1024"],
    ),
    "a code file": (
        write("code/evaluate.py", "2"),
        {f"evaluate@{model}" for model in MODELS} | {"report"}, "evaluate@scd", ["code: code/evaluate.py"],
    ),
    "a file in a code folder": (
        write("code/networks/b.py", "2"),
        AFTER_TEACHER | {"train_teacher"}, "train_teacher", ["code: code/networks"],
    ),
    "a code file is gone": (
        lambda folder: (folder / "code/prepare.py").unlink(),
        STAGES, "prepare", ["code: code/prepare.py is missing"],
    ),
    "an image": (write("data/raw/0/b.png", "another"), STAGES, "prepare", ["data: data/raw changed"]),
    "no images": (
        lambda folder: shutil.rmtree(folder / "data/raw/0"),
        STAGES, "prepare", ["data: data/raw is not here (--assume-data: as dvc.lock has it)"],
    ),
    "no folder of images": (
        lambda folder: shutil.rmtree(folder / "data/raw"),
        STAGES, "prepare", ["data: data/raw is not here (--assume-data: as dvc.lock has it)"],
    ),
    "a command": (
        set_value("dvc.yaml", "stages.report.cmd", "exec true"),
        {"report"}, "report", ["dvc.yaml: its command changed"],
    ),
    "a new dependency": (
        set_value("dvc.yaml", "stages.report.deps", ["results/metrics", "results/samples", "results/runs", "make.py"]),
        {"report"}, "report", ["dvc.yaml: make.py is a new dependency"],
    ),
    "a new output": (
        set_value("dvc.yaml", "stages.report.outs", ["results/report.json", "results/report.html"]),
        {"report"}, "report", ["dvc.yaml: results/report.html is a new output"],
    ),
    "fewer students": (
        lambda folder: [
            projects.edit(folder, "params.yaml", "student.methods", {"scd": "teacher"}),
            projects.edit(folder, "params.yaml", "evaluate.models", ["teacher", "scd"]),
        ],
        {"report"}, "report", ['params: evaluate.models: [teacher, scd, sct] -> [teacher, scd]'],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_runs_and_why(project, name):
    change, running, stage, reasons = CHANGES[name]
    change(project)
    steps = planned(project)
    assert names(steps, RUNS) == running and names(steps, UP_TO_DATE) == steps.keys() - running
    assert own_reasons(steps) == stale(project)
    if stage is not None:
        assert steps[stage].reasons == reasons
    for step in steps.values():
        upstream = {reason.removeprefix(UPSTREAM) for reason in step.reasons if reason.startswith(UPSTREAM)}
        assert upstream <= running and (step.reasons == []) == (step.status == UP_TO_DATE)


def test_a_plan_leaves_the_project_as_it_is(project):
    def files() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in sorted(project.rglob("*"))
            if path.is_file() and ".git/" not in str(path) and ".dvc/tmp" not in str(path)
        }

    (project / "code/evaluate.py").write_text("2")
    (project / "results/metrics/prepare.json").unlink()
    before = files()
    planned(project)
    assert files() == before


def test_before_the_first_run_all_stages_run(tmp_path):
    steps = planned(projects.make(tmp_path))
    assert names(steps, RUNS) == STAGES
    assert {reason for step in steps.values() for reason in step.reasons} == {"never run: dvc.lock does not know it"}
    order = list(steps)
    assert order.index("prepare") < order.index("train_teacher") < order.index("select_ema@teacher")
    assert order.index("select_ema@teacher") < order.index("train_student@sct") and order[-1] == "report"


def test_the_order_is_that_of_the_methods(project):
    projects.edit(project, "params.yaml", "student.methods", {"scd_vsd": "scd", "scd": "teacher"})
    projects.edit(project, "params.yaml", "student.scd_vsd", SCD_VSD)
    projects.edit(project, "params.yaml", "evaluate.models", ["teacher", "scd_vsd", "scd"])
    order = list(planned(project))
    assert order.index("select_ema@scd") < order.index("train_student@scd_vsd") < order.index("evaluate@scd_vsd")


def test_outputs_that_are_not_here_are_no_reason(project):
    shutil.rmtree(project / "models/scd/snapshots")
    shutil.rmtree(project / "results/samples")
    steps = planned(project)
    assert names(steps, UP_TO_DATE) == STAGES
    missing = {name for name, step in steps.items() if step.missing == "dvc checkout"}
    assert missing == {"train_student@scd", *(f"evaluate@{model}" for model in MODELS)}
    shutil.rmtree(project / ".dvc/cache")
    steps = planned(project)
    assert names(steps, UP_TO_DATE) == STAGES == {name for name, step in steps.items() if step.missing == "dvc pull"}


def test_a_fresh_clone_without_the_images(clone):
    steps = planned(clone)
    assert names(steps, RUNS) == STAGES
    assert steps["prepare"].reasons == ["data: data/raw is not here (--assume-data: as dvc.lock has it)"]
    assumed = planned(clone, assume_data=True)
    assert names(assumed, UP_TO_DATE) == STAGES and {step.missing for step in assumed.values()} == {"dvc pull"}


def test_a_fresh_clone_with_the_images(clone):
    """What DVC says where it may look over what is missing: it ends at the first stage of those that the plan has."""
    write("data/raw/0/a.png", "an image")(clone)
    assert names(planned(clone), UP_TO_DATE) == STAGES
    assert started(clone, "repro", "--dry", "--allow-missing") == set()
    projects.edit(clone, "params.yaml", "student.scd.images", "96Ki")
    steps = planned(clone)
    assert names(steps, RUNS) == follows("@scd")
    assert started(clone, "repro", "--dry", "--allow-missing") == own_reasons(steps) == {"train_student@scd"}


def started(folder: Path, *arguments: str) -> set[str]:
    """Stages that dvc said it would run, or failed to look at since something that they read is missing."""
    done = projects.start(folder, sys.executable, "-m", "dvc", *arguments)
    return set(re.findall(r"(?:Running stage|failed to reproduce) '(.+?)'", done.stdout + done.stderr))


def test_a_dvc_file_says_whether_images_that_are_not_here_are_others(project, monkeypatch):
    (project / "data/raw/.gitignore").unlink()
    monkeypatch.chdir(project)
    with closing(Repo()) as repo:
        repo.add("data/raw/0")
        projects.edit(project, "params.yaml", "data.path", "data/raw/0")
        repo.reproduce("prepare", single_item=True)
    assert planned(project)["prepare"].status == UP_TO_DATE
    write("data/raw/0/b.png", "another")(project)
    assert planned(project)["prepare"].reasons == ["data: data/raw/0 changed"]
    shutil.rmtree(project / "data/raw/0")
    assert planned(project)["prepare"].status == UP_TO_DATE
    write("data/raw/0/c.png", "a third one")(project)
    with closing(Repo()) as repo:
        repo.add("data/raw/0")
    shutil.rmtree(project / "data/raw/0")
    reason = "data: data/raw/0 changed (data/raw/0.dvc has another hash)"
    assert planned(project, assume_data=True)["prepare"].reasons == [reason]
    write("data/raw/0/a.png", "an image")(project)  # as after `git pull`: what was trained on lies there still
    assert (planned(project)["prepare"].reasons, planned(project)["prepare"].status) == ([reason], RUNS)


def test_outputs_that_were_touched(project):
    write("models/scd/snapshots/a", "edited")(project)
    (project / "results/metrics/prepare.json").unlink()
    steps = planned(project)
    assert steps["train_student@scd"].reasons == ["outputs: models/scd/snapshots was changed"]
    assert steps["prepare"].reasons == ["outputs: results/metrics/prepare.json is missing, which git keeps"]
    assert names(steps, RESTORED) == {"train_student@scd", "prepare"} and names(steps, RUNS) == set()
    shutil.rmtree(project / ".dvc/cache")
    assert names(planned(project), RUNS) == STAGES


def test_what_is_restored_as_it_was_changes_nothing_downstream(project):
    lock = project / "dvc.lock"
    lock.write_text(re.sub(r"\n +evaluate.repeats: 1", "", lock.read_text(), count=1))
    steps = planned(project)
    assert steps["evaluate@teacher"].reasons == ["params: evaluate.repeats: (absent) -> 1"]
    assert names(steps, RESTORED) == stale(project) == {"evaluate@teacher"} and names(steps, RUNS) == set()


def test_a_frozen_stage_does_not_run(project):
    projects.edit(project, "dvc.yaml", "stages.train_teacher.frozen", True)
    write("code/networks/a.py", "2")(project)
    projects.edit(project, "params.yaml", "teacher.lr.max", 0.01)
    steps = planned(project)
    assert steps["train_teacher"].status == UP_TO_DATE
    assert names(steps, RUNS) == follows("@scd") | follows("@sct")


def test_a_lock_file_of_two_branches(project):
    """Merged by hand: the student's stage was made from another teacher than the one that is there."""
    lock = (project / "dvc.lock").read_text()
    teacher = re.search(r"- path: models/teacher/model.json\n\s+hash: md5\n\s+md5: (\w+)", lock)
    before, after = lock.split("  train_student@scd:")
    (project / "dvc.lock").write_text(before + "  train_student@scd:" + after.replace(teacher[1], "a" * 32, 1))
    reason = "upstream: select_ema@teacher has another result than this stage has read"
    assert planned(project)["train_student@scd"].reasons == [reason]
    assert "train_student@scd" in stale(project)


def repro(folder: Path, *options: str) -> tuple[set[str], set[str]]:
    """Stages that `dvc repro` ran, and those that it took from the run cache."""
    text = projects.dvc(folder, "repro", *options)
    cached = set(re.findall(r"Stage '(.+?)' is cached", text))
    return set(re.findall(r"Running stage '(.+?)'", text)) - cached, cached


@pytest.mark.slow
def test_repro_does_what_was_planned(project):
    """There and back: what runs runs, what is restored is restored; of the report it can only be said that it runs."""
    for change in (
        set_value("params.yaml", "seed", 1),
        lambda folder: [
            projects.edit(folder, "params.yaml", "seed", 0),
            projects.edit(folder, "params.yaml", "student.methods", {"scd": "teacher", "scd_vsd": "scd"}),
            projects.edit(folder, "params.yaml", "student.scd_vsd", SCD_VSD),
            projects.edit(folder, "params.yaml", "evaluate.models", ["teacher", "scd", "scd_vsd"]),
            write("code/evaluate.py", "2")(folder),
        ],
    ):
        change(project)
        steps = planned(project)
        ran, cached = repro(project)
        assert (names(steps, RUNS), names(steps, RESTORED)) == (ran, cached)
        assert names(planned(project), UP_TO_DATE) == planned(project).keys()
    assert cached and ran


@pytest.mark.slow
@pytest.mark.parametrize("images", [True, False])
def test_repro_with_pull_does_in_a_clone_what_was_planned(project, tmp_path, images):
    """Outputs come from a remote; DVC, too, then looks over images whose folder is not there."""
    write(".dvc/config", f"[core]\n    remote = there\n['remote \"there\"']\n    url = {tmp_path / 'remote'}\n")(
        project
    )
    projects.dvc(project, "push", "--quiet")
    projects.git(project, "rm", "-q", "--cached", "data/raw/.gitignore")
    projects.git(project, "commit", "-qam", "a remote")
    clone = tmp_path / "clone"
    projects.git(project, "clone", "-q", str(project), str(clone))
    if images:
        write("data/raw/0/a.png", "an image")(clone)
        write("data/raw/.gitignore", (project / "data/raw/.gitignore").read_text())(clone)
    projects.edit(clone, "params.yaml", "student.sct.images", "96Ki")
    steps = planned(clone, assume_data=True)
    assert names(steps, RUNS) == follows("@sct")
    assert {step.missing for step in steps.values() if step.status == UP_TO_DATE} == {"dvc pull"}
    assert repro(clone, "--pull") == (names(steps, RUNS), set())
    assert names(planned(clone, assume_data=True), UP_TO_DATE) == STAGES


def test_bad_input_is_one_line(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("results/report.json", "results/${select.no_such}.json"))
    assert cli.main(["plan"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"scm: error: dvc cannot read {project} (") and error.count("\n") == 1
    assert "select.no_such" in error and error.endswith("correct it, or see what `dvc status` says\n")
    (project / "dvc.yaml").write_text(text)
    (project / "data/raw/0/link.png").symlink_to(project / "nowhere")
    with pytest.raises(UserError, match=rf"dvc cannot read {project} \(.*data/raw/0/link\.png"):
        planned(project)
    shutil.rmtree(project / ".dvc")
    with pytest.raises(UserError, match=rf"dvc cannot read {project} \("):
        planned(project)


def test_neither_torch_nor_mlflow_is_imported(project):
    """Where nothing trains, and no MLflow is there to be asked: a plan is for machines without a GPU, and quick."""
    code = (
        "import sys; from scm.cli import main; code = main(['plan'])\n"
        "print('CODE', code, sorted({'torch', 'mlflow'} & set(sys.modules)))"
    )
    projects.edit(project, "params.yaml", "evaluate.seed", 2_000_000)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True,
        env={**projects.environment(), "PYTHONPATH": str(projects.ROOT)},
    )  # fmt: skip
    assert (done.stdout.splitlines()[-1], done.stderr) == ("CODE 0 []", "")


def test_check_and_json(project, capsys, monkeypatch):
    monkeypatch.chdir(project / "code")
    assert cli.main(["plan", "--check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no stage of 11 runs"
    projects.edit(project, "params.yaml", "student.sct.images", "128Ki")
    assert cli.main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train_student@scd   up to date" in lines
    assert "train_student@sct   runs        unknown    params: student.sct.images: 64Ki -> 128Ki" in lines
    assert "evaluate@sct        runs        unknown    upstream: select_ema@sct" in lines
    assert cli.main(["plan", "--check", "--json"]) == 10
    shown = json.loads(capsys.readouterr().out)
    assert (shown["runs"], shown["unknown"]) == (4, 3)
    student = next(stage for stage in shown["stages"] if stage["name"] == "train_student@sct")
    assert student == {
        "name": "train_student@sct",
        "status": "runs",
        "reasons": ["params: student.sct.images: 64Ki -> 128Ki"],
        "seconds": None,
        "about": False,
        "missing": None,
    }
