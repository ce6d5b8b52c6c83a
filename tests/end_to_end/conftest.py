"""A project of its own, made from the files of this one, in which the whole pipeline has run with digits-smoke."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scm import cli

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """This test's environment with the interpreter's folder first and nobody's MLflow or work folder.

    Without SHELL, as under cron and many a CI: DVC then takes /bin/sh, which may stay between it and a stage.
    """
    foreign = ("MLFLOW", "SCM_", "DVC_", "GIT_", "SHELL")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "OMP_NUM_THREADS": "1"}


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


def make_project(folder: Path) -> Path:
    """A git repository with the files that git would take from this one; digits-smoke, but with shorter students."""
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
    run("scm", "preset", "apply", "digits-smoke")
    shorter = {"scd.images": "2Ki", "sct.images": "2Ki", "common.lr.decay_from": "1Ki"}
    for key, value in shorter.items():
        edit(folder, f"student.{key}", value)
    run("git", "add", ".")
    run("git", "commit", "-qm", "start")
    return folder


def runner(folder: Path) -> Run:
    """Runs a command in the folder; `code` is the exit code that it must end with."""

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


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
            runner(make_project(folder / "project"))("scm", "run")
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
def scm(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `scm` in this process, which has torch already; `code` is the exit code. Returns its lines on stderr."""
    monkeypatch.chdir(project)

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(list(arguments)) == code
        return capsys.readouterr().err

    return run
