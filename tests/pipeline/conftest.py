"""A project of its own, made from the files of this one, in which the whole pipeline has run with digits-smoke."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """This test's environment with the interpreter's folder first and nobody's MLflow or work folder.

    Without SHELL, as under cron and many a CI: DVC then takes /bin/sh, which may stay between it and a stage.
    """
    foreign = ("MLFLOW", "SCM_", "DVC_", "GIT_", "SHELL")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "OMP_NUM_THREADS": "1"}


def make_project(folder: Path) -> Path:
    """A git repository with the files that git would take from this one."""
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
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("project"))
    runner(folder)("scm", "run")
    return folder


@pytest.fixture
def run(project: Path) -> Run:
    return runner(project)
