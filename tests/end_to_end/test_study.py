"""`scm study` over the whole pipeline: killed in the middle of a training, gone on with, drawn."""

import fcntl
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, copy_project, edit, environment, runner

pytestmark = pytest.mark.slow
STUDY = """# A study of tests.
title: Adaptive weighting
paper: something.
methods: {scd: teacher}
params:
  teacher: {images: 512, lr: {warmup: 64, decay_from: 256}}
  student: {common: {lr: {warmup: 64, decay_from: 256}, tangent_warmup: 64}, scd: {images: 1536}}
  sampler: {teacher_steps: 4}
  select: {progress: 2}
variants:
  adaptive: {}
  none: {student: {common: {adaptive_weighting: false}}}
figure: {kind: progress, models: [scd]}
"""


@pytest.fixture(scope="module")
def fresh(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data are there; the study has a teacher of its own."""
    folder = copy_project(finished, tmp_path_factory.mktemp("study") / "project")
    (folder / "pipelines" / "studies" / "mine.yaml").write_text(STUDY, encoding="utf-8")
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("checkpoint_every: 32Ki", "checkpoint_every: 256")
    params.write_text(text.replace("log_every: 4Ki", "log_every: 256"), encoding="utf-8")
    edit(folder, "mlflow.enabled", False)
    return folder


def killed_while_training(project: Path) -> None:
    """Starts the study, kills it, and it alone, once the student has a checkpoint, and waits for the trainer's end."""
    process = subprocess.Popen(
        ["scm", "study", "mine"], cwd=project, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    work, deadline = project / ".work", time.monotonic() + 600
    while not list(work.glob("train_student@scd/*/checkpoint*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    lock = next(work.glob("train_student@scd/*/lock"), None)
    assert lock is not None, "the trainer had finished: give it more images"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which the trainer holds until it has saved its state


def test_a_study_killed_while_training_goes_on_there(fresh: Path):
    run: Run = runner(fresh)
    params, status = (fresh / "params.yaml").read_text(), run("git", "status", "--porcelain").stdout
    killed_while_training(fresh)
    assert (fresh / "params.yaml").read_text() == params
    assert run("git", "status", "--porcelain").stdout == status
    output = run("scm", "study", "mine").stdout
    assert "Stage 'train_teacher' is cached" in output
    assert "resum" in output.lower()
    assert run("git", "status", "--porcelain").stdout == status
    folder = fresh / "results" / "studies"
    assert (folder / "mine.png").stat().st_size <= 60_000
    text = (folder / "mine.md").read_text()
    assert text.count("| adaptive | sCD |") == 2 + 2 and text.count("| none | sCD |") == 2 + 2  # steps, points
