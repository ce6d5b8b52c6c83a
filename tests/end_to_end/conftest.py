"""A project made from the files of this one, in which the whole pipeline has run with digits-smoke, and how to go on.

A process that imports torch and the rest costs up to seven seconds, more than a small training. So there is one
finished project, whose copies other tests go on from, and where it does not matter who starts a stage, it runs in the
test's own process. By DVC for real run: the data and the reference here, a student and what follows in test_repro, a
teacher in test_imported_teacher, a study, and everything in the drill.
"""

import fcntl
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import torch
from ruamel.yaml import YAML

from scm import cli
from scm.base.processes import STOPS

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
STUDENTS = {"student.scd.images": "2Ki", "student.sct.images": "2Ki", "student.common.lr.decay_from": "1Ki"}
SHORTER = {
    "reference.classifier.epochs": 1, "teacher.images": "2Ki", "teacher.lr.decay_from": "1Ki",
    "student.scd.images": "1Ki", "student.sct.images": "1Ki", "student.common.lr.warmup": 512,
    "student.common.lr.decay_from": 512, "student.common.tangent_warmup": 512, "sampler.teacher_steps": 6,
    "ema.snapshots": 2, "select.progress": 2,
}  # fmt: skip
"""What makes digits-smoke as short as it can be where no figure has to be good."""


def environment() -> dict[str, str]:
    """This test's environment with the interpreter's folder first and nobody's MLflow or work folder.

    SHELL is unset, as under cron and in many CI services: DVC then takes /bin/sh, which may stay between it and a
    stage. Bytecode is kept, since a project's stages import the same files again and again. SCM_STARTED spares a
    training stage its restart with other settings of malloc, and with it a second import of torch; it also prevents a
    restart as several processes.
    """
    foreign = ("MLFLOW", "SCM_", "DVC_", "GIT_", "SHELL", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "SCM_STARTED": "1"}


def edit(project: Path, key: str, value: object) -> object:
    """Sets a dotted key of params.yaml; returns the old value."""
    path, yaml = project / "params.yaml", YAML()
    tree = yaml.load(path.read_text())
    node, *_ = [tree]
    *parents, last = key.split(".")
    for part in parents:
        node = node[part]
    old, node[last] = node[last], value
    with path.open("w") as file:
        yaml.dump(tree, file)
    return old


def make_project(folder: Path, changes: dict[str, object] | None = None) -> Path:
    """A git repository with the files that git would take from this one; digits-smoke, with shorter students or so."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "results/metrics", "results/curves", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run = runner(folder)
    run("git", "init", "-q")
    run("git", "config", "user.email", "tests@example.invalid")
    run("git", "config", "user.name", "tests")
    scm_here(folder, "preset", "apply", "digits-smoke")
    for key, value in (STUDENTS if changes is None else changes).items():
        edit(folder, key, value)
    run("git", "add", ".")
    run("git", "commit", "-qm", "start")
    return folder


def runner(folder: Path) -> Run:
    """Runs a command in the folder; `code` is the exit code that it must end with."""

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1800)
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def run_in_two(folder: Path, module: str, *arguments: str) -> str:
    """Runs a stage with runtime.processes = 2, for which it starts again. Returns what it has printed."""
    kept = {key: value for key, value in environment().items() if key != "SCM_STARTED"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=kept, stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """This process as one that was started in the folder; what a stage changes in it is as before afterwards."""
    handlers = {number: signal.getsignal(number) for number in STOPS}
    deterministic, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    try:
        with chdir(folder), mock.patch.dict(os.environ, environment(), clear=True):
            yield
    finally:
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def scm_here(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `scm` with these arguments in this process; `code` is the exit code that it must end with."""
    with inside(folder), redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        found = cli.main(list(arguments))
    assert found == code, f"scm {' '.join(arguments)} ended with {found}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(arguments, found, out.getvalue(), err.getvalue())


def locked(project: Path) -> dict[str, dict]:
    """The stages of dvc.lock."""
    file = project / "dvc.lock"
    return YAML(typ="safe").load(file.read_text())["stages"] if file.exists() else {}


def remove_outputs(project: Path, stage: dict) -> None:
    """Removes what a stage of dvc.lock has left, as DVC does before it runs the stage again."""
    for path in (project / out["path"] for out in stage.get("outs", ())):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def run_stage(project: Path, module: str, *arguments: str, code: int = 0) -> None:
    """Runs `python -m MODULE ARGUMENTS` in this process, which has imported torch already."""
    with inside(project), mock.patch.object(sys, "argv", [module, *arguments]), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            assert end.code == code, f"{module} {' '.join(arguments)} ended with {end.code}"


def due(project: Path) -> list[str]:
    """The stages that `dvc repro` would run, in its order."""
    steps = json.loads(scm_here(project, "plan", "--json").stdout)["stages"]
    return [step["name"] for step in steps if step["status"] == "runs"]


def run_stages(project: Path, *names: str) -> None:
    """Runs stages such as select_ema@scd in this process, and has DVC record what they leave as if it had run them."""
    known = locked(project)
    for name in names:
        stage, _, item = name.partition("@")
        remove_outputs(project, known.get(name, {}))
        run_stage(project, f"stages.{stage}", *filter(None, [item]))
    commit(project, *names)


def commit(project: Path, *names: str) -> None:
    """`dvc commit --force` of these stages, which reads and writes dvc.lock once and not, in a second, for each."""
    from dvc.repo import Repo
    from dvc.repo.stage import StageInfo

    with inside(project), warnings.catch_warnings(), Repo() as repo:
        warnings.simplefilter("default")
        known = {stage.addressing: stage for stage in repo.stage.load_all()}
        chosen = [StageInfo(known[name]) for name in names]
        with mock.patch.object(repo.stage, "collect_granular", lambda *_, **__: chosen):
            repo.commit(force=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in which everything has run, to be copied: made by the first test process that asks for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder / "project", ignore_errors=True)
            (folder / "project").mkdir()
            project = make_project(folder / "project", SHORTER)
            run_stages(project, *due(project))
            (folder / "whole").touch()
    return folder / "project"


def copy_project(finished: Path, folder: Path) -> Path:
    """A copy of a project with its cache, in a new folder; outputs that are links to files of the cache stay so."""
    subprocess.run(["cp", "-a", str(finished), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(finished, tmp_path_factory.mktemp("project") / "copy")


@pytest.fixture
def run(project: Path) -> Run:
    return runner(project)


@pytest.fixture
def scm(project: Path) -> Callable[..., str]:
    """Runs `scm` in this process; `code` is the exit code. Returns its lines on stderr."""

    def run(*arguments: str, code: int = 0) -> str:
        return scm_here(project, *arguments, code=code).stderr

    return run
