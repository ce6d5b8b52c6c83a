"""A pipeline that goes on from an imported teacher, with DVC for real."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from scm.results.reading import read_figures
from tests.end_to_end.conftest import Run, copy_project, due, run_stages, runner
from tests.support import originals

pytestmark = pytest.mark.slow

SHAPE = {"resolution": 8, "channels": 1, "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": 4}
TRAIN, SELECT = "train_teacher", "select_ema@teacher"


def teacher(path: Path, scale: float) -> Path:
    shapes = originals.edm2_shapes(**SHAPE, classes=10)
    return originals.edm2_file(path, originals.edm2_network(originals.filled(shapes, scale), channels_per_head=32))


def of_unknown_length(path: Path) -> Path:
    tensors = originals.filled(originals.edm_shapes(**SHAPE, classes=10, augment=9), 0.1)
    return originals.dump({"ema": originals.edm_network(tensors)}, path)


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits-smoke with one student and pixels in [-1, 1], encoded and no further."""
    folder = copy_project(finished, tmp_path_factory.mktemp("imported") / "project")
    path, yaml = folder / "params.yaml", YAML()
    params = yaml.load(path.read_text())
    params["codec"]["normalize"] = "none"
    params["student"]["methods"], params["evaluate"]["models"] = {"scd": "teacher"}, ["teacher", "scd"]
    params["student"]["scd"]["images"], params["student"]["common"]["lr"]["decay"] = 1024, "constant"
    params["teacher"]["images"], params["teacher"]["lr"]["decay"] = 1024, "constant"
    params["sampler"]["teacher_steps"] = 4
    params["select"] |= {"sigma_rel": {"teacher": [0.1], "student": [0.1]}, "t_mid": [0.8], "progress": 1}
    params["mlflow"]["enabled"] = False
    with path.open("w") as file:
        yaml.dump(params, file)
    run_stages(folder, "encode")
    return folder


@pytest.fixture
def run(project: Path) -> Run:
    return runner(project)


def stages(text: str) -> set[str]:
    return set(re.findall(r"Running stage '(.+?)'", text))


def run_cache(project: Path) -> int:
    return sum(1 for file in (project / ".dvc/cache/runs").rglob("*") if file.is_file())


def test_the_pipeline_goes_on_from_the_imported_teacher(project, run, scm, tmp_path):
    entries = run_cache(project)
    scm("import-teacher", str(teacher(tmp_path / "t-0000131-0.075.pkl", 1.0)))
    assert run_cache(project) == entries  # not as a result of training
    assert json.loads(run("dvc", "status", "--json", TRAIN).stdout or "{}") == {}
    assert run("git", "diff", "--numstat", "dvc.yaml").stdout.split()[:2] == ["1", "0"]
    further = due(project)
    assert set(further) == {
        SELECT, "train_student@scd", "select_ema@scd", "evaluate@teacher", "evaluate@scd", "report"
    }  # fmt: skip
    run_stages(project, *further)
    assert json.loads(run("dvc", "status", "--json").stdout or "{}") == {}
    assert stages(run("scm", "run").stdout) == set()
    choice = read_figures(project, "select_ema", "teacher")
    assert choice["sigma_rel"] == 0.075 and "imported" not in choice
    chain = json.loads((project / "results/runs/evaluate@scd.json").read_text())["chain"]
    assert chain["imported.file"] == "t-0000131-0.075.pkl" and chain["network.c_noise"] == "log_sigma"
    assert "teacher.images" not in chain and chain["student.images"] == 1024
    scm("sample", "--model", "teacher", "--steps", "2", "-n", "4", "-o", str(tmp_path / "grid.png"))
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width >= 32


def test_parameters_of_the_training_rerun_nothing_of_it(project, run):
    text = (project / "params.yaml").read_text()
    assert "width: 16" in text
    (project / "params.yaml").write_text(text.replace("width: 16", "width: 32", 1))
    assert TRAIN not in stages(run("dvc", "repro", "--dry").stdout)
    (project / "params.yaml").write_text(text)


def test_another_import_takes_its_place(project, run, scm, tmp_path):
    old = {file.name: file.read_bytes() for file in (project / "models/teacher/snapshots").iterdir()}
    scm("import-teacher", str(of_unknown_length(tmp_path / "cond-vp.pkl")))
    assert due(project)[0] == SELECT
    run_stages(project, SELECT)
    assert "sigma_rel" not in read_figures(project, "select_ema", "teacher")
    run_stages(project, "train_student@scd", "evaluate@teacher")
    assert set(due(project)) == {"select_ema@scd", "evaluate@scd", "report"}
    scm("import-teacher", str(teacher(tmp_path / "t-0000131-0.075.pkl", 1.0)))
    assert {
        file.name: file.read_bytes() for file in (project / "models/teacher/snapshots").iterdir()
    }.keys() == old.keys()


def test_a_failure_of_dvc_leaves_the_project_as_it_was(project, scm, tmp_path):
    kept = ("dvc.yaml", "dvc.lock", "results/runs/train_teacher.json")
    before = {name: (project / name).read_bytes() for name in kept}
    (project / ".dvc/config").rename(project / ".dvc/config.good")
    (project / ".dvc/config").write_text("[no section\n")
    error = scm("import-teacher", str(teacher(tmp_path / "t-0000999-0.075.pkl", 0.5)), code=1)
    (project / ".dvc/config.good").rename(project / ".dvc/config")
    assert error.startswith("scm: error: `dvc repro --no-commit train_teacher` failed, and nothing was changed: ")
    assert {name: (project / name).read_bytes() for name in kept} == before
    assert [file.name for file in (project / "models/teacher/snapshots").iterdir()] == [
        "000000131072-0.075.safetensors"
    ]


def test_it_is_undone_as_the_command_says(project, run):
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("    frozen: true\n", ""))
    assert stages(run("scm", "run", "--force", "--single-item", TRAIN).stdout) == {TRAIN}
    assert len(list((project / "models/teacher/snapshots").iterdir())) > 1
    assert due(project)[0] == SELECT
