"""The floors of the house hold: import-linter accepts the tree, and refuses each kind of fault when it is put in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the source and of the contracts."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("scm", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def linted(house: Path) -> tuple[int, str]:
    """Exit code of import-linter on the copy, and what it says of the contracts on floors and circles."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache", "--contract", "floors", "--contract", "circles"]
    environment = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stdout.split())


def add(house: Path, file: str, line: str) -> None:
    with (house / file).open("a") as handle:
        handle.write(line + "\n")


def test_the_tree_keeps_its_floors(house):
    assert linted(house)[0] == 0


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("scm/data/shards/loader.py", "import scm.pipeline.plan", "scm.data is not allowed to import scm.pipeline"),
        ("scm/jvp/dual.py", "import scm.networks.model", "scm.jvp is not allowed to import scm.networks"),
        ("scm/ema/profiles.py", "import scm.ema.reconstruct", "No cycles are allowed in scm.ema"),
        ("scm/orphan.py", '"""A file in no layer."""', "orphan"),
        ("scm/attic/__init__.py", '"""A room in no layer."""', "attic"),
    ],
    ids=["upward", "sibling", "circle", "unlisted file", "unlisted room"],
)
def test_a_fault_is_refused(house, file, line, said):
    (house / file).parent.mkdir(exist_ok=True)
    add(house, file, line)
    code, told = linted(house)
    assert code == 1 and said in told


def test_few_files_lie_directly_in_scm():
    assert len([path for path in (ROOT / "scm").iterdir() if path.is_file()]) <= 8
