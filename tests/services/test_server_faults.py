"""Stages and `scm sync` while MLflow's server is killed, its store of artifacts full or read-only: nothing is lost."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image

from scm import cli
from scm.params import dump, load
from scm.params.project import Project
from scm.product.packaging import champion_address, package
from scm.publishing.candidate import model_files
from scm.publishing.entry import champion_in
from scm.results.fingerprint import inputs_of
from scm.results.reading import read_curve, read_figures
from scm.tracking import sending, store
from scm.tracking.registry import CHAMPION, Registry
from scm.tracking.sync import record_of, sync
from tests.end_to_end.conftest import environment, make_project, run_stage
from tests.services.conftest import Disk, Server, wait_for
from tests.support.fake_candidate import change_run, make_candidates, write_candidate
from tests.support.fake_results import write_fake_results
from tests.support.models import save_model
from tests.support.plan_projects import edit
from tests.support.projects import params_with

pytestmark = [pytest.mark.slow, pytest.mark.long]
TRAINING = """
from scm.tracking.live import Live
Live.__init__.__defaults__ = (0.2,)  # seconds between two shipments
from stages.train_teacher import main, run
main(run, "train_teacher", training=True)
"""
WHY = "the tracking server fails or breaks off, its log says why: is its disk full or read-only\\?"
FAILED = f"mlflow: {WHY}"
LATER = r"figures are kept in files, `scm sync` sends them later\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, a teacher of many logged rows."""
    folder = make_project(tmp_path_factory.mktemp("project"))
    edit(folder, "params.yaml", "mlflow.enabled", False)
    edit(folder, "params.yaml", "teacher.images", "8Ki")
    edit(folder, "params.yaml", "runtime.log_every", 128)
    edit(folder, "params.yaml", "runtime.threads", 1)
    for stage in ("prepare", "encode"):
        run_stage(folder, f"stages.{stage}")
    edit(folder, "params.yaml", "mlflow.enabled", True)
    return folder


def start(project: Path, server: Server | None, *arguments: str, **more: str) -> "subprocess.Popen[str]":
    own = {"no_proxy": "127.0.0.1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "SCM_STARTED": "1", **more}
    own |= {} if server is None else {"MLFLOW_TRACKING_URI": server.address}
    command = [sys.executable, *arguments]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project, env={**environment(), **own}, **pipes)


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and what is left of stderr."""
    said = process.communicate()[1]
    return process.returncode, said


def scm_sync(project: Path, server: Server, **more: str) -> tuple[int, str]:
    return finished(start(project, server, "-m", "scm.cli", "sync", **more))


def teacher_runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("digits-smoke")
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], "tags.`scm.stage` = 'train_teacher'"))


def points(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, int, float]]]:
    return {
        key: sorted((point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, key))
        for key in client.get_run(run_id).data.metrics
    }


def expected_points(project: Path) -> dict[str, list[tuple[int, int, float]]]:
    """Every figure of every row of the curve file."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for row in read_curve(project / "results/curves/train-teacher.csv"):
        for key in row.keys() - {"images", "time"}:
            found.setdefault(key, []).append((int(row["images"]), round(row["time"] * 1000), float(row[key])))
    return found


@pytest.mark.parametrize("back", ["in the middle", "after the end"])
def test_a_server_killed_while_a_model_trains_has_every_figure_in_the_end(
    server: Server, project: Path, tmp_path: Path, back: str
) -> None:
    edit(project, "params.yaml", "seed", 1 + (back == "after the end"))
    client = store.connect(server.settings(project))
    before = {run.info.run_id for run in teacher_runs(client)}
    training = start(project, server, "-c", TRAINING)
    assert training.stderr is not None

    def some_figures() -> bool:
        assert training.poll() is None, "trained before anything was shown"
        new = [run for run in teacher_runs(client) if run.info.run_id not in before]
        return bool(new) and "loss" in new[0].data.metrics

    wait_for("the first figures", some_figures)
    os.kill(training.pid, signal.SIGSTOP)
    server.kill()
    os.kill(training.pid, signal.SIGCONT)
    said = training.stderr.readline()
    assert re.fullmatch(rf"mlflow: the tracking server .+ \({server.address}\); {LATER}", said)
    if back == "in the middle":
        os.kill(training.pid, signal.SIGSTOP)
        assert not (project / "results/runs/train_teacher.json").exists(), "trained before the server was back"
        server.start()
        os.kill(training.pid, signal.SIGCONT)
    assert finished(training) == (0, "")
    if back == "after the end":
        server.start()
        assert teacher_runs(client)[0].info.status == "RUNNING"
        assert scm_sync(project, server) == (0, "")
    (run,) = (run for run in teacher_runs(client) if run.info.run_id not in before)
    assert run.info.status == "FINISHED"
    expected = expected_points(project)
    assert len(expected["loss"]) == 64 and points(client, run.info.run_id) == expected
    assert scm_sync(project, server) == (0, "")
    assert points(client, run.info.run_id) == expected and len(teacher_runs(client)) == len(before) + 1
    (project / "results/runs/train_teacher.json").unlink()


@pytest.mark.parametrize("fault", ["full", "read_only"])
def test_a_stage_ends_well_where_its_files_cannot_be_kept_and_they_are_sent_later(
    server_on_disk: Server, disk: Disk, project: Path, fault: str
) -> None:
    own = {"MLFLOW_EXPERIMENT_NAME": fault}
    with getattr(disk, fault)():
        code, said = finished(start(project, server_on_disk, "-m", "stages.encode", **own))
        assert code == 0 and re.fullmatch(rf"{FAILED} \({server_on_disk.address}\); {LATER}", said), said
        client = store.connect(server_on_disk.settings(project))
        experiment = client.get_experiment_by_name(fault)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        figures = read_figures(project, "encode", None)
        assert run.data.metrics == figures and run.info.status == "FINISHED"
        code, said = scm_sync(project, server_on_disk, **own)
        *named, last = said.splitlines()
        assert code == 1 and named and all(re.fullmatch(rf"\w+\.json was not sent: {WHY}", line) for line in named)
        assert re.fullmatch(r"scm: error: .+ not sent, for the reasons above: run `scm sync` again after mending", last)
    assert scm_sync(project, server_on_disk, **own) == (0, "")
    assert len(client.search_runs([experiment.experiment_id], "tags.`scm.stage` = 'encode'")) == 1
    kept = client.download_artifacts(run.info.run_id, "runs/encode.json", str(project.parent))
    assert Path(kept).read_bytes() == (project / "results/runs/encode.json").read_bytes()


@pytest.mark.parametrize("fault", ["full", "read_only"])
def test_pictures_that_could_not_be_kept_are_whole_after_a_sync(
    server_on_disk: Server, disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    root = write_fake_results(tmp_path, rows=2)
    own = {"mlflow.uri": server_on_disk.address, "mlflow.experiment": f"pictures {fault}"}
    project = Project(root, params_with(own))
    settings = project.tracking
    record = record_of(root, root / "results/runs/evaluate@scd.json")
    with getattr(disk, fault)():
        assert not sending.publish(record, settings)
        assert capsys.readouterr().err.count("\n") == 1
    client = store.connect(settings)
    run_id = sending.run_of(client, record.key).info.run_id
    lone = tmp_path / "samples-nfe-1+step+1+timestamp+1+0.png"
    lone.write_bytes((root / "results/samples/scd/nfe-1.png").read_bytes())
    client.log_artifact(run_id, str(lone), "images")  # as where there was room for an image and not for its small copy
    sync(project)
    table = json.loads(Path(client.download_artifacts(run_id, "samples.json", str(tmp_path))).read_text())
    assert [row[0] for row in table["data"]] == ["1", "2"]
    for _, shown in table["data"]:
        full, small = (shown[f"{kind}filepath"] for kind in ("", "compressed_"))
        assert small == full.removesuffix(".png") + "+compressed.webp"
        for name in (full, small):
            with Image.open(client.download_artifacts(run_id, name, str(tmp_path))) as picture:
                picture.load()
    files = {file.path for folder in ("runs", "metrics") for file in client.list_artifacts(run_id, folder)}
    assert files == {"runs/evaluate@scd.json", "metrics/evaluate-scd.json"}


def packable(root: Path, server: Server) -> Path:
    """A candidate whose models are real, so that they can be packed, as measured by dvc.lock."""
    make_candidates(root)
    write_candidate(root)
    lock = (root / "dvc.lock").read_text()
    old = [hashlib.md5((root / name).read_bytes()).hexdigest() for name in model_files("scd")]
    save_model(root, "teacher", label_dropout=0.1)
    save_model(root, "scd", seed=1, t_mid=0.8)
    for digest, name in zip(old, model_files("scd"), strict=True):
        lock = lock.replace(digest, hashlib.md5((root / name).read_bytes()).hexdigest())
    (root / "dvc.lock").write_text(lock)
    edit(root, "params.yaml", "mlflow.uri", server.address)
    inputs = inputs_of(root, "evaluate", "scd", dump(load(root / "params.yaml")))
    change_run(root, "evaluate@scd", key=inputs.key, deps=inputs.dependencies)
    return root


@pytest.mark.parametrize("fault", ["full", "nearly_full", "read_only"])
def test_no_half_a_model_is_published_where_there_is_no_room_and_the_same_command_does_it_later(
    server_on_disk: Server, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], fault: str,
) -> None:  # fmt: skip
    root = packable(tmp_path / "project", server_on_disk)
    edit(root, "params.yaml", "publish.name", f"model-{fault}")
    monkeypatch.chdir(root)
    with getattr(disk, fault)():
        assert cli.main(["publish"]) == 1
        said = capsys.readouterr()
        assert re.fullmatch(rf"scm: error: {FAILED} \(.+\): run `scm publish` again later\n", said.err) and not said.out
        registry = Registry(store.connect(server_on_disk.settings(root)), f"model-{fault}")
        assert registry.versions() == [] and champion_in(registry) is None
    for code, title in ((0, "First champion"), (0, "Unchanged")):
        assert cli.main(["publish"]) == code
        assert capsys.readouterr().out.startswith(f"{title}: model-{fault}")
    assert [version.number for version in registry.versions()] == ["1"] and registry.holder(CHAMPION) == "1"
    source = registry.client.get_model_version(registry.name, "1").source
    kept = Path(download_artifacts(source, dst_path=str(tmp_path / "kept"), tracking_uri=server_on_disk.address))
    project = Project.open(root)
    again = package(project, "scd", tmp_path / "again", champion_address(project))
    for part in ("artifacts", "code"):
        files = {path.relative_to(again): path.read_bytes() for path in (again / part).rglob("*") if path.is_file()}
        assert files and files == {
            path.relative_to(kept): path.read_bytes() for path in (kept / part).rglob("*") if path.is_file()
        }
