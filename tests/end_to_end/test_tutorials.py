"""The tutorials' commands, in the order of the pages; what trains for hours there is only parsed here.

test_notebook.py trains on images of one's own, test_drill.py retrains and rolls back, test_recipes.py adds the method.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from scm import cli
from scm.presets.apply import set_values
from tests.end_to_end.conftest import ROOT, environment, make_project, scm_here

pytestmark = [pytest.mark.slow, pytest.mark.long]
LONG = ("run", "retrain", "sample", "card", "serve", "champion", "rollback", "plan")
"""Commands that need models, or minutes; the plan of a real project is asked for elsewhere."""
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with pictures of two classes, in colour and of several sizes."""
    folder = tmp_path_factory.mktemp("home")
    draws = np.random.default_rng(0)
    for place in ("pictures/cats", "pictures/dogs", "new-pictures"):
        (folder / place).mkdir(parents=True)
        for number in range(3):
            pixels = draws.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{place[-4:]}{number}.png")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """One project for both tutorials, the second of which begins where the first one ends."""
    folder = make_project(tmp_path_factory.mktemp("tutorials"))
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    (folder / "dvc.lock").write_text("schema: '2.0'\n")  # what the trainings would leave
    return folder


@pytest.mark.parametrize("name", ["images", "retraining"])
def test_a_tutorials_commands_work_one_after_the_other(name, project, home):
    text = (ROOT / f"docs/tutorials/{name}.md").read_text(encoding="utf-8")
    for kind, block in BLOCK.findall(text):
        if kind == "yaml":
            edit(project, block)
        for line in block.splitlines() if kind == "sh" else ():
            follow(project, home, line)
    cats = {"images": "data/raw/cats", "retraining": "data/images/cats"}[name]
    assert len(list((project / cats).glob("*.png"))) == {"images": 3, "retraining": 6}[name]


def edit(project: Path, block: str) -> None:
    """Writes the values of a block into params.yaml, as the reader does by hand."""
    values = {
        f"{section}.{key}": value
        for section, keys in YAML(typ="safe").load(block).items()
        for key, value in keys.items()
    }
    assert set_values(project / "params.yaml", values), block


def follow(project: Path, home: Path, line: str) -> None:
    """Runs a command of a page in a shell, or in this process if it is scm's."""
    program, *arguments = shlex.split(line)
    if program == "scm" and arguments[0] in LONG:
        assert cli.parser().parse_known_args(arguments)[0].handler
    elif program == "scm":
        scm_here(project, *arguments)
    else:
        settings = {**environment(), "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(["bash", "-c", line], cwd=project, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
