"""A project with small random models and made-up results, its package, and that package served."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scm.params.project import Project
from scm.product.packaging import package
from tests.support.serving import Server, make_product, start


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
    return make_product(tmp_path_factory.mktemp("product") / "project")


@pytest.fixture(scope="session")
def packed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of scd and its teacher, in a folder of its own."""
    return package(project, "scd", tmp_path_factory.mktemp("packed") / "model")


def copied(project: Project, folder: Path, *without: str) -> Project:
    """A copy of the project that a test may change."""
    return Project.open(shutil.copytree(project.root, folder / "copy", ignore=shutil.ignore_patterns(*without)))


def run_example(card: str) -> None:
    """Runs the program in a model card, as it is printed."""
    code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code is not None
    exec(code[1], {})


@pytest.fixture(scope="session")
def server(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The package, served with at most 8 images a request."""
    served = start(str(packed), "--max-batch", "8", folder=tmp_path_factory.mktemp("served"))
    yield served
    served.end()
