"""scm retrain around the pipeline: what it writes, brings, refuses and tells a CI service. The cycle is the drill."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr
from pathlib import Path
from unittest import mock

import pytest

from scm import cli
from scm.base import locks
from scm.errors import UserError
from scm.params import load
from scm.params.project import Project
from scm.pipeline import dvc_command
from scm.product import packaging
from scm.publishing.candidate import candidate_of, protocol_parts
from scm.results.provenance import chain
from scm.retraining import cycle, remeasuring
from tests.support import plan_projects
from tests.support.fake_candidate import log_version, make_candidates, set_param, write_candidate
from tests.support.plan_projects import dvc, edit, git

LONG = "a storage with a name that is longer than a line of a terminal/where it would be wrapped"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The small pipeline, in which nothing has run."""
    return plan_projects.make(tmp_path / "project")


def retrain(folder: Path, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """`scm retrain` in the project, as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scm.cli", "retrain", *arguments],
        cwd=folder, env={**plan_projects.environment(), **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def retrain_here(folder: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """The same in this process, for what starts no stage; returns the lines on stderr."""
    known = {**plan_projects.environment(), **variables}
    with chdir(folder), mock.patch.dict(os.environ, known, clear=True), redirect_stderr(io.StringIO()) as err:
        try:
            found = cli.main(["retrain", *arguments])
        except SystemExit as end:
            found = end.code
    assert found == code, f"{arguments} ended with {found}\n{err.getvalue()}"
    return err.getvalue()


def test_the_plan_tells_a_ci_service_whether_something_runs(project, tmp_path):
    output, summary = tmp_path / "output", tmp_path / "summary"
    places = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    retrain_here(project, "plan", **places)
    assert output.read_text() == "runs=true\n"
    assert "never run: dvc.lock does not know it" in summary.read_text()
    dvc(project, "repro", "-q")
    retrain_here(project, "plan", **places)
    retrain_here(project, "plan", "--force", **places)
    assert output.read_text().splitlines()[1:] == ["runs=false", "runs=true"]
    assert not (project / "mlflow.db").exists()


def test_values_and_a_preset_are_written_into_params(project):
    shown = retrain_here(
        project,
        "plan",
        "--params",
        "teacher.images=256Ki evaluate.models=[teacher,scd] student.methods='{scd: teacher}' seed=7",
    )
    assert "scm retrain: teacher.images: 192Ki -> 256Ki\n" in shown
    params = load(project / "params.yaml")
    assert (int(params.teacher.images), params.seed, list(params.student.methods)) == (256 * 1024, 7, ["scd"])
    text = (project / "params.yaml").read_text()
    assert "# training budget" in text, "comments stay"
    retrain_here(project, "plan", "--preset", "", "--params", "")
    assert (project / "params.yaml").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--params", "teacher.images"), r"--params 'teacher.images': must be KEY=VALUE, such as teacher.images=1Mi"),
        (("--params", "a='b"), r"--params \"a='b\": No closing quotation: close the quotation"),
        (("--params", "seed=[1"), r"--params seed=\[1:1 is not valid YAML .*"),
        (("--params", "teacher.imagse=1Ki"), r"values set in .*params.yaml: teacher.imagse.*did you mean .*"),
        (("--params", "seed.x=1"), r".*params.yaml has no key seed.x: `scm params show` prints them all"),
        (("--params", "mlflow.enabled=false"), r"mlflow.enabled = false: there is no registry of models; write .*"),
        (("--preset", "digit"), r"no preset digit in .*: .*"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(project, arguments, error):
    text = retrain_here(project, "plan", *arguments, code=1).splitlines()
    assert re.fullmatch(f"scm: error: {error}", text[-1]), text


@pytest.mark.parametrize("minutes", ["0", "-1", "inf", "nan", "soon"])
def test_no_time_at_all_is_refused(project, minutes):
    assert "argument --minutes: " in retrain_here(project, "train", "--minutes", minutes, code=2)


def test_time_runs_out_and_the_same_command_goes_on(project, tmp_path):
    places = {"GITHUB_OUTPUT": str(tmp_path / "output")}
    command = plan_projects.definition()["stages"]["prepare"]["cmd"]
    edit(project, "dvc.yaml", "stages.prepare.cmd", "exec sleep 600")
    said = retrain(project, "train", "--minutes", "0.05", code=75, **places).stderr
    assert "scm retrain: interrupted: run the same command to go on" in said
    edit(project, "dvc.yaml", "stages.prepare.cmd", command)
    retrain(project, "train", "--minutes", "10", **places)
    assert (tmp_path / "output").read_text() == "state=interrupted\nstate=done\n"
    assert "up to date" in dvc(project, "status")


def test_what_ran_is_given_to_the_remote_even_if_a_later_stage_fails(project, tmp_path):
    dvc(project, "remote", "add", "-d", "storage", f"../{LONG}")
    edit(project, "dvc.yaml", "stages.report.cmd", "exec false")
    output = tmp_path / "output"
    said = retrain(project, "train", code=1, GITHUB_OUTPUT=str(output)).stderr
    assert "scm retrain: giving the remote storage what it lacks" in said and output.read_text() == "state=failed\n"
    git(project, "add", ".")
    git(project, "commit", "-qm", "trained")
    plan_projects.run(tmp_path, "git", "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    assert dvc_command.remote(clone) == dvc_command.Remote("storage", str(tmp_path / LONG))
    wanted = ["models/scd/model.json", "results/runs", "nothing"]
    assert dvc_command.bring(clone, wanted, dvc_command.remote(clone)) == ["nothing"]
    assert (clone / "results/runs/evaluate@scd.json").is_file()
    assert (clone / "models/scd/model.json").read_bytes() == (project / "models/scd/model.json").read_bytes()


def test_what_dvc_yaml_has_no_more_does_not_keep_the_rest_away(project, tmp_path):
    """dvc.lock keeps the stages of before, and DVC takes one target that it does not know for a reason to stop."""
    dvc(project, "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    dvc(project, "repro", "-q")
    dvc(project, "push", "-q")
    fewer = "evaluate.models=[teacher,scd] student.methods='{scd: teacher}'"
    retrain_here(project, "plan", "--params", fewer)
    git(project, "add", ".")
    git(project, "commit", "-qm", "trained")
    plan_projects.run(tmp_path, "git", "clone", "-q", str(project), "clone")
    wanted = ["results/runs", "models/scd/model.json"]
    assert dvc_command.bring(tmp_path / "clone", wanted, dvc_command.remote(tmp_path / "clone")) == []
    assert (tmp_path / "clone/results/runs/evaluate@scd.json").is_file()
    assert not (tmp_path / "clone/results/runs/evaluate@sct.json").exists()
    shutil.rmtree(tmp_path / "storage")
    shutil.rmtree(tmp_path / "clone/.dvc/cache")
    shutil.rmtree(tmp_path / "clone/models")
    missing = dvc_command.bring(tmp_path / "clone", ["models/scd/model.json"], dvc_command.remote(tmp_path / "clone"))
    assert missing == ["models/scd/model.json"]


def test_a_remote_that_is_gone_fails_what_was_done_and_hides_no_other_fault(project, tmp_path):
    (tmp_path / "file").write_text("no folder")
    dvc(project, "remote", "add", "-d", "storage", str(tmp_path / "file/storage"))
    output = tmp_path / "output"
    said = retrain(project, "train", code=1, GITHUB_OUTPUT=str(output)).stderr.splitlines()
    assert said[-1].startswith("scm: error: `dvc push --run-cache` in ") and "support" not in said[-1]
    edit(project, "params.yaml", "data.path", "data/images")
    (project / "data/images.dvc").write_text(
        "outs:\n- md5: 00000000000000000000000000000000.dir\n  hash: md5\n  path: images\n"
    )
    said = retrain(project, "train", code=1, GITHUB_OUTPUT=str(output)).stderr.splitlines()
    assert said[-1].startswith("scm: error: data/images.dvc: its images do not come from the remote storage (")
    assert output.read_text() == "state=failed\nstate=failed\n"


def test_a_refused_value_leaves_params_as_they_were(project):
    before = (project / "params.yaml").read_text()
    retrain_here(project, "plan", "--preset", "digits-smoke", "--params", "seed=soon", code=1)
    retrain_here(project, "plan", "--params", "mlflow.enabled=false", code=1)
    assert (project / "params.yaml").read_text() == before


def test_images_that_dvc_keeps_are_those_that_are_trained_on(project, tmp_path):
    """DVC itself would take older ones that lie there for what is wanted, and rewrite the .dvc file."""
    dvc(project, "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    edit(project, "params.yaml", "data.path", "data/images")
    folder = project / "data/images"
    folder.mkdir()
    versions = []
    for name in ("a", "b"):
        (folder / name).write_text(name)
        dvc(project, "add", "-q", "data/images")
        versions.append((project / "data/images.dvc").read_text())
    remote = dvc_command.remote(project)
    dvc(project, "push", "-q", "data/images.dvc")
    (project / "data/images.dvc").write_text(versions[0])
    dvc_command.bring_images(project, "data/images", remote)
    assert [path.name for path in folder.iterdir()] == ["a"]
    (folder / "c").write_text("new")
    with pytest.raises(
        UserError, match=r"data/images holds files that data/images.dvc does not know: `dvc add data/im"
    ):
        dvc_command.bring_images(project, "data/images", remote)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c"]
    (folder / "c").unlink()
    (project / "data/images.dvc").write_text(versions[1].replace("md5: ", "md5: 0", 1))
    with pytest.raises(UserError, match=r"^data/images.dvc: its images do not come from the remote storage \("):
        dvc_command.bring_images(project, "data/images", remote)
    dvc_command.bring_images(project, "data/raw", remote)


def test_a_second_one_waits(project):
    with locks.held(project / ".work/retrain.lock"):
        second = subprocess.Popen(
            [sys.executable, "-m", "scm.cli", "retrain", "plan"],
            cwd=project, env=plan_projects.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert second.stderr
        said = second.stderr.readline()
        assert said == f"scm retrain: another `scm retrain` is at work (process {os.getpid()}): waiting for it\n"
        time.sleep(0.3)
        assert second.poll() is None
    assert "stages run" in second.communicate(timeout=60)[0] and second.returncode == 0


def test_without_a_model_nothing_is_published(project):
    error = retrain_here(project, "publish", code=1)
    assert error.endswith("data/codec is missing, and there is no DVC remote: run `scm retrain train` here\n")
    assert error.count("\n") == 1 and not (project / "mlflow.db").exists()


@pytest.mark.parametrize("service", [None, "https://gitlab.com/o/r/-/jobs/7"], ids=["by hand", "in CI"])
def test_what_is_published_is_proposed_with_the_way_to_its_grids(tmp_path, monkeypatch, service):
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "CI_", "GIT_", "MLFLOW"))]:
        monkeypatch.delenv(name)
    root, summary = make_candidates(tmp_path / "project"), tmp_path / "summary"
    git(root, "init", "-q")
    git(root, "add", "params.yaml")
    git(root, "commit", "-qm", "start")
    write_candidate(root)
    git(tmp_path, "init", "-q", "--bare", "origin")
    monkeypatch.setattr(packaging, "log_version", log_version)
    monkeypatch.setattr(dvc_command, "remote", lambda _: None)
    monkeypatch.setattr(dvc_command, "bring", lambda *_: [])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    where = "All sample grids lie in `results/samples`.\n"
    if service is not None:
        monkeypatch.setenv("CI_JOB_URL", service)
        where = f"All sample grids lie in [the files of the CI run]({service}/artifacts/browse).\n"
    request = cycle.Request(action="publish", propose="branch", remote=str(tmp_path / "origin"))
    assert cycle.retrain(root, request) == 0
    message = git(tmp_path / "origin", "log", "-1", "--format=%B", "--branches=retrain/*")
    assert message.startswith("First champion: digits, version 1\n") and where in message
    assert "No comparison with HEAD: HEAD (" in message
    assert where in summary.read_text()


def test_a_ruler_is_another_one_if_a_part_of_the_protocol_is(tmp_path):
    root = make_candidates(tmp_path)
    project = Project.open(root)
    write_candidate(root, chain=chain(project, "scd"))
    champion = candidate_of(project)

    def same() -> bool:
        return remeasuring.same_ruler(Project.open(root), champion)

    assert champion.parts and same()
    set_param(root, "evaluate.samples", 7)
    assert not same()
    set_param(root, "evaluate.samples", int(project.params.evaluate.samples))
    set_param(root, "teacher.batch", 7)
    assert same()
    write_candidate(root, ruler="ruler 2")
    assert not same()


def test_one_range_of_seeds_is_refused_before_anything_runs(tmp_path, monkeypatch):
    root = make_candidates(tmp_path)
    write_candidate(root)
    git(root, "init", "-q")
    dvc(root, "init", "-q")
    project = Project.open(root)
    assert project.params.evaluate.repeats == 1
    champion = candidate_of(project)
    monkeypatch.setattr(cycle, "champion_of", lambda *_: champion)
    monkeypatch.setattr(cycle, "run", lambda *_, **__: pytest.fail("something runs"))
    why = r"^evaluate.repeats = 1: one range of seeds cannot tell if a model is better than the champion, version None"
    with pytest.raises(UserError, match=why):
        cycle.retrain(root, cycle.Request(action="train"))


def test_the_teachers_few_steps_are_part_of_its_ruler_alone():
    run = {"chain": {"evaluate.teacher_few_steps": 2, "evaluate.samples": 5}, "params": {}, "deps": {}}
    assert protocol_parts({"item": "scd", **run}) == {"evaluate.samples": "5"}
    assert protocol_parts({"item": "teacher", **run}) == {"evaluate.samples": "5", "evaluate.teacher_few_steps": "2"}


def test_the_champions_model_has_to_be_evaluated(tmp_path):
    root = make_candidates(tmp_path)
    write_candidate(root)
    project = Project.open(root)
    champion, params = candidate_of(project), project.params
    fewer = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"models": ["teacher"]})})
    with pytest.raises(
        UserError, match=r"^params.yaml: evaluate.models: the champion, version None, is of the model scd"
    ):
        remeasuring.measure_anew(Project(root, fewer), champion)
