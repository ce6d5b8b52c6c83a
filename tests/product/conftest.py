"""A project with small random models and made-up results, its package, and that package served."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scm.params.project import Project
from scm.product.packaging import package
from tests.support import projects as shipped
from tests.support.fake_results import write_fake_results
from tests.support.models import save_model

ROOT = Path(__file__).parents[2]
START = 120.0
"""Seconds that a server may take to start, with torch and mlflow to import."""


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen


@pytest.fixture(autouse=True)
def nobody_elses_store() -> Iterator[None]:
    """mlflow.set_tracking_uri leaves its address in the environment, where other tests' stores would be sought."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("product") / "project"
    root.mkdir()
    shipped.make_project(root)
    save_model(root, "teacher", label_dropout=0.1)
    save_model(root, "scd", seed=1, t_mid=0.8)
    return Project.open(write_fake_results(root))


@pytest.fixture(scope="session")
def packed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of scd and its teacher, in a folder of its own."""
    return package(project, "scd", tmp_path_factory.mktemp("packed") / "model")


def copied(project: Project, folder: Path, *without: str) -> Project:
    """A copy of the project that a test may change."""
    return Project.open(shutil.copytree(project.root, folder / "copy", ignore=shutil.ignore_patterns(*without)))


def start(*arguments: str, folder: Path) -> Server:
    """`scm serve` as a process of its own, on a free port, ready to answer."""
    command = [sys.executable, "-m", "scm.cli", "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    log.close()
    assert process.stdout is not None
    began, line = time.monotonic(), process.stdout.readline()
    assert " on http://" in line and time.monotonic() - began < START, (folder / "serve.log").read_text()
    return Server(line.split(" on ")[1].split(" ")[0].rstrip("/"), process)


@pytest.fixture(scope="session")
def server(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The package, served with at most 8 images a request."""
    served = start(str(packed), "--max-batch", "8", folder=tmp_path_factory.mktemp("served"))
    yield served
    served.process.terminate()
    served.process.wait()
    assert served.process.stdout is not None
    served.process.stdout.close()
