"""CONTRIBUTING's recipes, followed in a copy of the project: how many files they touch, and that the new parts work."""

import json
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, SHORTER, copy_project, edit, runner, scm_here

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
METHOD_PAGE = (ROOT / "docs/tutorials/method.md").read_text(encoding="utf-8")


def page_files() -> dict[str, str]:
    """The files of the tutorial, each in the block after the line that begins with its path."""
    blocks = re.findall(r"^`([\w./-]+)` [^\n]*\n\n```\w+\n(.*?)^```$", METHOD_PAGE, flags=re.MULTILINE | re.DOTALL)
    return dict(blocks)


TRY = """
import runpy, sys
from scm.report.wording import display_name

print(display_name("huber"))
tests = [test for name, test in runpy.run_path(sys.argv[1]).items() if name.startswith("test_")]
for test in tests:
    test()
print(len(tests), "tests")
"""


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished project with everything committed, so that git tells what a recipe has touched."""
    folder = copy_project(finished, tmp_path / "copy")
    run = runner(folder)
    edit(folder, "mlflow.enabled", False)
    run("git", "add", "-A")
    run("git", "commit", "-qm", "all that has run", "--allow-empty")
    return folder


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name.replace('__', '/')}.py").write_text(text.lstrip())


def write_page(folder: Path) -> None:
    for name, text in page_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def touched(folder: Path) -> list[str]:
    """Files that git sees as new or changed, results of runs left out."""
    told = runner(folder)("git", "status", "--porcelain", "--untracked-files=all").stdout
    return sorted(line[3:] for line in told.splitlines() if not line[3:].startswith("results/"))


def test_parts_that_nobody_uses_leave_everything_up_to_date(copy):
    """Files of all kinds that are found by their names; the plan knows them, and runs nothing."""
    write(
        copy,
        scm__data__sources__stripes=SOURCE,
        scm__networks__architectures__new='"""An architecture."""\n',
        scm__evaluation__extractors__new='"""An extractor."""\n',
    )
    write_page(copy)
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
    """docs/tutorials/method.md from its first block to its last, with smoke-sized budgets in place of the digits'."""
    write_page(copy)
    preset = copy / "pipelines/presets/digits-huber.yaml"
    text = preset.read_text().replace("extends: digits-plain\n", "extends: digits-smoke\n")
    preset.write_text(text.replace("64Ki", "4Ki"))
    run = runner(copy)
    scm = partial(run, "python", "-m", "scm.cli")  # the copy's own
    scm("preset", "apply", "digits-huber")
    for key, value in {**SHORTER, "student.huber.images": "1Ki"}.items():  # the rest as in the finished project
        edit(copy, key, value)
    steps = json.loads(scm("plan", "--json").stdout)["stages"]
    due = {step["name"] for step in steps if step["status"] == "runs"}
    assert due == {"train_student@huber", "select_ema@huber", "evaluate@huber", "report"}
    run("python", "-m", "stages.train_student", "huber")
    assert list((copy / "models/huber/snapshots").glob("*.safetensors"))
    assert touched(copy) == sorted(["params.yaml", *page_files()])
    assert run("python", "-c", TRY, "tests/objectives/test_huber.py").stdout == "sCT, Huber\n2 tests\n"
    assert scm("params", "show", "student.huber.c").stdout == "student.huber.c: 0.1\n"


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
