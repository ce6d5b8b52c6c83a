"""`scm status`: what it reads, what it calls out of date, and that it needs neither torch nor MLflow."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from scm.commands.status import lines
from scm.params import dump
from scm.params.project import Project
from scm.results.fingerprint import inputs_of
from scm.results.provenance import chain, run_entry
from scm.results.reading import run_names, run_path
from tests.support.plan_projects import edit
from tests.support.projects import make_project

ROOT = Path(__file__).parents[2]
STAGES = """
stages:
  prepare: {cmd: x, params: [data], deps: [code.py], outs: [data/shards]}
  encode: {cmd: x, params: [codec], deps: [data/shards], outs: [data/latents]}
  reference: {cmd: x, params: [reference], deps: [data/shards], outs: [data/reference]}
  train_teacher: {cmd: x, params: [seed, teacher], deps: [data/latents], outs: [models/teacher/snapshots]}
  train_student:
    foreach: ${student.methods}
    do:
      {cmd: x, params: ["student.${key}"], deps: [data/latents, "models/${item}/model.safetensors"], outs: ["models/${key}/snapshots"]}
  select_ema:
    {matrix: {model: "${evaluate.models}"}, cmd: x, params: [select], deps: ["models/${item.model}/snapshots"], outs: ["models/${item.model}/model.safetensors"]}
  evaluate:
    {matrix: {model: "${evaluate.models}"}, cmd: x, params: [evaluate.samples], deps: ["models/${item.model}/model.safetensors"], outs: ["results/samples/${item.model}"]}
"""  # noqa: E501
OUTPUTS = {
    "prepare": "data/shards", "encode": "data/latents", "reference": "data/reference",
    "train_teacher": "models/teacher/snapshots",
}  # fmt: skip
OF_MODEL = {"train_student": "models/{}/snapshots", "select_ema": "models/{}/model.safetensors"}


@pytest.fixture
def project(tmp_path) -> Path:
    """A small pipeline whose stages have all run, as their run files and dvc.lock say."""
    make_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (tmp_path / "code.py").write_text("1", encoding="utf-8")
    opened = Project.open(tmp_path)
    names = run_names(list(opened.params.evaluate.models))
    outs = {
        name: OUTPUTS.get(name) or OF_MODEL.get(name.partition("@")[0], "x/{}").format(name.partition("@")[2])
        for name in names
    }
    locked = {name: {"cmd": "x", "outs": [{"path": path, "md5": f"{name}-1"}]} for name, path in outs.items()}
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": locked}), encoding="utf-8")
    for name in names:
        stage, _, item = name.partition("@")
        inputs = inputs_of(tmp_path, stage, item or None, dump(opened.params))
        of_model = chain(opened, item or None)
        entry = run_entry(
            opened, key=inputs.key, stage=stage, item=item or None, name=name, started=0.0, params=inputs.params,
            deps=inputs.dependencies, chain=of_model,
        )  # fmt: skip
        path = run_path(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry), encoding="utf-8")
    return tmp_path


def told(folder: Path) -> dict[str, str]:
    return dict(lines(Project.open(folder)))


def test_all_is_up_to_date(project):
    metrics = project / "results/metrics"
    metrics.mkdir()
    (metrics / "evaluate-scd.json").write_text(json.dumps({"fd@1": 19.417, "fd@2": 8.187, "kid@1": 1.0}))
    path = run_path(project, "select_ema@scd")
    chosen = {"figures": {"fd": 9.0, "sigma_rel": 0.15, "t_mid": 0.8}}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | chosen), encoding="utf-8")
    said = told(project)
    assert len(said) <= 10 and list(said)[-1] == "out of date"
    assert said["out of date"] == "nothing" and said["published"] == said["report"] == "nothing yet"
    assert said["trained"].startswith("teacher (320Ki images, ") and "; scd (128Ki images, " in said["trained"]
    assert said["selected"] == "scd sigma_rel 0.15, t_mid 0.8" and said["measured"] == "scd fd@1 19.4, fd@2 8.19"


def test_a_change_and_what_follows_from_it(project):
    edit(project, "params.yaml", "student.sct.images", "96Ki")
    expected = "3 of 12 stages: train_student@sct (student.sct.images: 128Ki -> 96Ki), and 2 after them"
    assert told(project)["out of date"] == f"{expected} (`scm plan` says more)"
    (project / "code.py").write_text("2", encoding="utf-8")
    assert told(project)["out of date"].startswith("12 of 12 stages: prepare (code.py), train_student@sct (student")


def test_a_stage_that_has_not_run_and_one_that_has_begun(project):
    run_path(project, "evaluate@sct").unlink()
    (project / ".work/evaluate@sct/0123").mkdir(parents=True)
    (project / ".work/evaluate@scd/0123.finished").mkdir(parents=True)
    said = told(project)
    assert said["out of date"].startswith("1 of 12 stages: evaluate@sct (its run file is not here: `dvc pull`, or")
    assert said["begun"] == "evaluate@sct: `scm run` goes on with it"


def test_health_is_told(project):
    path = run_path(project, "train_student@sct")
    run = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**run, "health": ["the norm grew", "and more"]}), encoding="utf-8")
    assert told(project)["unhealthy"] == "train_student@sct: the norm grew (and 1 more in the report)"


def test_the_champion_is_read_from_the_file_of_the_store(project):
    with closing(sqlite3.connect(project / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE registered_model_aliases (alias, version, name)")
        database.execute("CREATE TABLE model_version_tags (key, value, version, name)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('champion', 3, 'digits')")
        tags = {"scm.model": "scd", "scm.evaluations": "2", "scm.fd": "1.3", "scm.commit": "0123456789abcdef"}
        rows = [(key, value, 3, "digits") for key, value in tags.items()]
        database.executemany("INSERT INTO model_version_tags VALUES (?, ?, ?, ?)", rows)
    assert told(project)["published"] == "digits version 3: scd, fd@2 1.3, commit 0123456789"
    (project / "mlflow.db").write_bytes(b"no database" * 100)
    assert told(project)["published"].endswith("mlflow.db cannot be read (file is not a database)")


def test_no_server_is_asked(project):
    edit(project, "params.yaml", "mlflow.uri", "http://127.0.0.1:9")
    address = "`scm champion` asks http://127.0.0.1:9"
    assert told(project)["published"] == f"not known here: {address}"
    (project / "results/verdict.json").write_text(json.dumps({"name": "digits", "kind": "refused"}), encoding="utf-8")
    assert told(project)["published"] == f"digits, last verdict here: refused; {address}"


def test_it_needs_neither_torch_nor_mlflow_nor_dvc(project):
    code = (
        "import sys; from scm import cli; code = cli.main(['status'])\n"
        "print(code, sorted({'torch', 'mlflow', 'dvc', 'numpy'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
