"""CONTRIBUTING's recipes, followed in a copy of the project: how many files they touch, and that the new parts work."""

import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.end_to_end.conftest import copy_project, edit, runner, scm_here

pytestmark = pytest.mark.slow
SOURCE = '''
"""Stripes, lying and standing."""

from contextlib import ExitStack

import numpy as np
from PIL import Image

from scm.data.reading.source import ImageSource, Wanted


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (8, 4))
    return ImageSource(
        name="stripes",
        classes=["lying", "standing"],
        labels=[number % 2 for number in range(12)],
        file_name=lambda number: f"stripe {number}",
        load=lambda number: Image.fromarray(stripes if number % 2 else stripes.T.copy()),
    )
'''
METHOD = '''
"""Slow sCT."""

from pydantic import Field

from scm.methods import Method, MethodBlock, Parts, StudentSettings, tangent_settings


class SlowBlock(MethodBlock):
    pace: float = Field(gt=0)


def objective(settings: StudentSettings, parts: Parts):
    from scm.objectives.slow import SlowTraining

    return SlowTraining(sigma_d=parts.sigma_d, pace=settings.own.pace, **tangent_settings(settings)), None


METHOD = Method(title="Slow sCT", block=SlowBlock, objective=objective)
'''
OBJECTIVE = '''
"""Consistency training along a slower trajectory."""

from dataclasses import dataclass

from scm.objectives.consistency import ConsistencyLoss


@dataclass(frozen=True, kw_only=True)
class SlowTraining(ConsistencyLoss):
    pace: float

    def direction(self, x_t, t, labels, inputs, v_t):
        return self.pace * v_t
'''


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished project with everything committed, so that git tells what a recipe has touched."""
    folder = copy_project(finished, tmp_path / "copy")
    run = runner(folder)
    run("git", "add", "-A")
    run("git", "commit", "-qm", "all that has run", "--allow-empty")
    return folder


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name.replace('__', '/')}.py").write_text(text.lstrip())


def touched(folder: Path) -> list[str]:
    """Files that git sees as new or changed, results of runs left out."""
    told = runner(folder)("git", "status", "--porcelain", "--untracked-files=all").stdout
    return sorted(line[3:] for line in told.splitlines() if not line[3:].startswith("results/"))


def test_parts_that_nobody_uses_leave_everything_up_to_date(copy):
    """Files of all kinds that are found by their names; the plan knows them, and runs nothing."""
    write(
        copy,
        scm__data__sources__stripes=SOURCE,
        scm__methods__slow=METHOD,
        scm__objectives__slow=OBJECTIVE,
        scm__networks__architectures__new='"""An architecture."""\n',
        scm__evaluation__extractors__new='"""An extractor."""\n',
    )
    plan = json.loads(scm_here(copy, "plan", "--json", "--check").stdout)
    assert {step["name"]: step["status"] for step in plan["stages"] if step["status"] != "up to date"} == {}
    assert any(step["name"] == "train_student@scd" for step in plan["stages"])


def test_a_new_source_is_one_file(copy):
    write(copy, scm__data__sources__stripes=SOURCE)
    edit(copy, "data.source", "stripes")
    edit(copy, "data.held_out", 0.0)
    said = runner(copy)("python", "-m", "stages.prepare").stdout
    assert "12 images in stripes, 2 classes" in said
    assert json.loads((copy / "data/shards/index.json").read_text())["classes"] == ["lying", "standing"]
    assert touched(copy) == ["params.yaml", "scm/data/sources/stripes.py"]


def test_a_new_objective_is_two_files_and_a_block(copy):
    write(copy, scm__methods__slow=METHOD, scm__objectives__slow=OBJECTIVE)
    path, yaml = copy / "params.yaml", YAML()
    params = yaml.load(path.read_text())
    params["student"]["slow"] = {"images": "1Ki", "dropout": 0.0, "pace": 0.5, "lr": params["student"]["common"]["lr"]}
    params["student"]["slow"]["lr"]["decay_from"] = 512
    params["student"]["methods"] = {"slow": "teacher"}
    params["evaluate"]["models"] = ["teacher", "slow"]
    with path.open("w") as file:
        yaml.dump(params, file)
    run = runner(copy)
    run("python", "-m", "stages.train_student", "slow")
    assert list((copy / "models/slow/snapshots").glob("*.safetensors"))
    assert touched(copy) == ["params.yaml", "scm/methods/slow.py", "scm/objectives/slow.py"]
    named = "from scm.report.wording import display_name; print(display_name('slow'))"
    assert run("python", "-c", named).stdout == "Slow sCT\n"
    shown = run("python", "-m", "scm.cli", "params", "show", "student.slow.pace").stdout
    assert shown == "student.slow.pace: 0.5\n"


def test_a_study_of_ones_own_is_one_file(copy):
    study = "title: Two paces\nvariants:\n  a: {seed: 1}\n  b: {seed: 2}\nfigure: {kind: bars, models: [scd]}\n"
    (copy / "pipelines/studies/paces.yaml").write_text(study)
    assert "Two paces" in scm_here(copy, "study", "--list").stdout
    assert touched(copy) == ["pipelines/studies/paces.yaml"]


def test_a_part_that_is_misspelt_is_told_with_those_there_are(copy):
    write(copy, scm__data__sources__stripes=SOURCE)
    edit(copy, "data.source", "strips")
    done: subprocess.CompletedProcess[str] = runner(copy)("python", "-m", "stages.prepare", code=1)
    assert "'stripes'" in done.stderr and done.stderr.count("\n") == 1
