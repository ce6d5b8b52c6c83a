"""`scm study` with real git and DVC, but stages that only write figures: experiments, interruption, faults, drawing."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from scm import cli
from scm.errors import UserError
from scm.pipeline import clone
from scm.study import experiments
from tests.support import projects as shipped

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  evaluate:
    matrix:
      model: ${evaluate.models}
    cmd: exec python -m stages.evaluate ${item.model}
    params: [student.common, student.methods]
    deps: ["${data.path}", stages/evaluate.py, scm]
    metrics: ["results/metrics/evaluate-${item.model}.json": {cache: false}]
    plots:
    - results/curves/progress-${item.model}.csv: {cache: false}
    - results/curves/train-${item.model}.csv: {cache: false}
  report:
    cmd: "false"
    deps: [results/metrics, stages/report.py]
    outs: [results/report.html]
"""
STAGE = """
import json, os, pathlib, sys, time
from ruamel.yaml import YAML
from scm import helper
root = pathlib.Path(os.environ["DVC_ROOT"])
common = YAML(typ="safe").load(pathlib.Path("params.yaml"))["student"]["common"]
with (root / "calls.txt").open("a") as file:
    print(sys.argv[1], common["tangent"], file=file)
if (root / f"fail-{common['tangent']}").exists():
    sys.exit("no")
while (root / f"wait-{common['tangent']}").exists():
    time.sleep(0.05)
results = pathlib.Path("results")
for folder in ("metrics", "curves"):
    (results / folder).mkdir(parents=True, exist_ok=True)
figures = {f"{name}@{nfe}": helper.FACTOR / nfe for name in ("fd", "precision", "recall") for nfe in (1, 2)}
(results / "metrics" / f"evaluate-{sys.argv[1]}.json").write_text(json.dumps(figures))
(results / "curves" / f"progress-{sys.argv[1]}.csv").write_text("images,fd,fd_1step\\n1024,4,8\\n2048,2,4\\n")
terms = [f"tangent_term{term}/{index}" for term in (1, 2) for index in range(8)]
rows = [",".join([str(images), *(str(images / 1024 + index) for index in range(16))]) for images in (1024, 2048)]
(results / "curves" / f"train-{sys.argv[1]}.csv").write_text("\\n".join([",".join(["images", *terms]), *rows]) + "\\n")
"""
STUDY = """# A study of tests.
title: Tangents
paper: something.
methods: {scd: teacher}
variants:
  first: {student: {common: {tangent: normalized}}}
  second: {student: {common: {tangent: raw}}}
figure: {kind: progress, models: [scd]}
"""


ONE_VARIANT = STUDY.replace("  second: {student: {common: {tangent: raw}}}\n", "")


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=check)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose stages take no time, with data and a helper that git does not know, and no git identity."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = tmp_path / "project"
    folder.mkdir()
    params_file = shipped.make_project(folder)
    params_file.write_text(params_file.read_text().replace("  enabled: true", "  enabled: false"))
    assert "enabled: false" in params_file.read_text()
    (folder / "dvc.yaml").write_text(DVC_YAML)
    for name in ("stages", "scm", "data/raw", ".dvc"):
        (folder / name).mkdir(parents=True)
    (folder / "stages" / "evaluate.py").write_text(STAGE)
    for package in ("scm", "stages"):
        (folder / package / "__init__.py").touch()  # else Python would take the real ones
    (folder / "scm" / "helper.py").write_text("FACTOR = 8.0\n")
    (folder / "stages" / "report.py").touch()
    (folder / "data" / "raw" / "image.txt").write_text("data")
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    ignored = ("__pycache__/", "/.work/", "/data/", "/images.zip", "/calls.txt", "/.dvc/cache", "/.dvc/tmp")
    (folder / ".gitignore").write_text("\n".join([*ignored, "/results/studies", ""]))
    (folder / "pipelines" / "studies" / "mine.yaml").write_text(STUDY)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.invalid", "commit", "-qm", "start")
    monkeypatch.chdir(folder)
    return folder


def start(project: Path, *arguments: str) -> subprocess.Popen:
    code = "import sys; from scm.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", code, "study", *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def scm_study(project: Path, *arguments: str, code: int = 0) -> str:
    """Runs the command in this process, and returns what it prints; the stages' own lines are not among it."""
    output, variables = io.StringIO(), {"PYTHONPATH": str(ROOT)}
    with chdir(project), mock.patch.dict(os.environ, variables), redirect_stdout(output), redirect_stderr(output):
        found = cli.main(["study", *arguments])
    assert found == code, output.getvalue()
    return output.getvalue()


def calls(project: Path) -> list[str]:
    return (project / "calls.txt").read_text().splitlines()


def until_running(project: Path, call: str) -> None:
    deadline = time.monotonic() + 300
    while not (project / "calls.txt").exists() or call not in calls(project):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def untouched(project: Path) -> dict[str, str]:
    """All that a study must leave as it is."""
    return {
        "status": git(project, "status", "--porcelain"),
        "head": git(project, "symbolic-ref", "HEAD"),
        "commit": git(project, "rev-parse", "HEAD"),
        "stash": git(project, "stash", "list"),
        "params": (project / "params.yaml").read_text(),
    }


def test_a_copy_has_the_files_that_git_does_not_know_and_a_variant_names(project):
    weights = project / "data" / "weights" / "edm.pkl"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    values = {section: {} for section in ("codec", "reference", "teacher", "select")}
    for section, key in (key.split(".") for key in clone.FILES):
        values[section][key] = None
    values["teacher"]["start"] = "data/weights/edm.pkl"
    with clone.clone(project, "data/raw") as copy:
        assert (copy.folder / "data/raw/image.txt").exists() and not (copy.folder / "data/weights").exists()
        copy.link(values)
        assert (copy.folder / "data/weights/edm.pkl").samefile(weights)
    assert weights.read_bytes() == b"weights"


def test_a_study_links_what_its_variants_name(project):
    (project / "data" / "start").mkdir()
    (project / "data" / "start" / "teacher.safetensors").write_bytes(b"weights")
    study = ONE_VARIANT.replace("tangent: normalized}}", "tangent: normalized}}, teacher: {start: data/start}")
    (project / "pipelines" / "studies" / "mine.yaml").write_text(study)
    stage = project / "stages" / "evaluate.py"
    stage.write_text("import os\nassert os.listdir('data/start') == ['teacher.safetensors']\n" + STAGE)
    git(project, "-c", "user.name=a", "-c", "user.email=a@example.invalid", "commit", "-qam", "started")
    scm_study(project, "mine")
    assert calls(project) == ["teacher normalized", "scd normalized"]


def test_each_variant_becomes_an_experiment_that_is_run_again_with_other_code_alone(project):
    (project / "scm" / "helper.py").write_text("from scm.new import FACTOR\n")  # not committed
    (project / "scm" / "new.py").write_text("FACTOR = 6.0\n")  # not even known to git
    before = untouched(project)
    output = scm_study(project, "mine")
    assert untouched(project) == before
    assert calls(project) == ["teacher normalized", "scd normalized", "teacher raw", "scd raw"]
    found = experiments.finished(project)
    assert sorted(name[:-9] for name in found) == ["mine-first", "mine-second"]
    (second,) = found[next(name for name in found if "second" in name)]
    assert json.loads(git(project, "show", f"{second.revision}:results/metrics/evaluate-scd.json"))["fd@2"] == 3.0
    assert "tangent: raw" in git(project, "show", f"{second.revision}:params.yaml")
    assert git(project, "show", f"{second.revision}:scm/new.py") == "FACTOR = 6.0"
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"], capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) == set(found)
    text = (project / "results" / "studies" / "mine.md").read_text()
    assert "| first | sCD | 2 | 3.000 | 3.000 | 3.000 |" in text
    assert "Missing" not in text and "other code" not in text
    assert "results/studies/mine.png" in output
    assert [path.name for path in (project / ".work" / "studies").iterdir()] == ["lock"]
    (project / "stages" / "report.py").write_text("# which no experiment runs\n")
    assert "second: done before" in scm_study(project, "mine")
    assert len(calls(project)) == 4
    (project / "scm" / "new.py").write_text("FACTOR = 4.0\n")
    assert cli.main(["study", "mine", "--draw"]) == 0
    page = project / "results" / "studies" / "mine.md"
    assert "other code than the present one: first, second." in page.read_text()
    assert "done before" not in scm_study(project, "mine")
    assert len(calls(project)) == 8 and len(experiments.finished(project)) == 2
    assert "| first | sCD | 2 | 2.000 |" in page.read_text() and "other code" not in page.read_text()


def test_a_variant_that_fails_is_named_and_the_others_run(project):
    (project / "fail-normalized").touch()
    output = scm_study(project, "mine", code=1)
    assert "first: failed" in output and "missing: first" in output
    assert "Missing: first." in (project / "results" / "studies" / "mine.md").read_text()
    (project / "fail-normalized").unlink()
    scm_study(project, "mine")
    assert calls(project)[-2:] == ["teacher normalized", "scd normalized"]
    assert calls(project).count("scd raw") == 1


def test_if_all_variants_fail_the_remedy_is_to_correct_them(project):
    (project / "pipelines" / "studies" / "mine.yaml").write_text(ONE_VARIANT)
    (project / "fail-normalized").touch()
    last = scm_study(project, "mine", code=1).splitlines()[-1]
    assert "no variant has finished" in last and "see above why they failed" in last


def test_images_in_an_archive_that_git_ignores_are_taken_along(project):
    (project / "pipelines" / "studies" / "mine.yaml").write_text(ONE_VARIANT)
    (project / "images.zip").write_bytes(b"images")
    params_file = project / "params.yaml"
    params_file.write_text(params_file.read_text().replace("path: data/raw", "path: images.zip"))
    scm_study(project, "mine")
    assert len(calls(project)) == 2
    (project / "images.zip").write_bytes(b"others")
    assert "other code" not in scm_study(project, "mine")
    assert len(calls(project)) == 4


def test_an_interrupted_study_goes_on_after_what_is_finished(project):
    before = untouched(project)
    (project / "wait-raw").touch()
    before["status"] = git(project, "status", "--porcelain")
    process = start(project, "mine")
    until_running(project, "teacher raw")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 75
    assert untouched(project) == before
    (project / "wait-raw").unlink()
    assert "first: done before" in scm_study(project, "mine")
    assert calls(project).count("scd normalized") == 1


def test_a_killed_study_leaves_everything_in_place_and_goes_on(project):
    (project / "scm" / "helper.py").write_text("FACTOR = 5.0\n")
    (project / "wait-raw").touch()
    before = untouched(project)
    process = start(project, "mine")
    until_running(project, "teacher raw")
    process.kill()
    process.wait(timeout=300)
    assert untouched(project) == before
    (project / "wait-raw").unlink()  # the stand-in for a stage, unlike real ones, outlives its parent
    process.communicate(timeout=300)
    scm_study(project, "mine")
    assert calls(project).count("scd normalized") == 1
    assert "| second | sCD | 1 | 5.000 |" in (project / "results" / "studies" / "mine.md").read_text()


def test_two_studies_do_not_run_at_the_same_time(project):
    with (
        clone.clone(project, "data/raw"),
        pytest.raises(UserError, match=r"another copy of .* for studies is in use"),
        clone.clone(project, "data/raw"),
    ):
        pass


def test_a_faulty_variant_is_refused_before_anything_runs(project):
    path = project / "pipelines" / "studies" / "mine.yaml"
    path.write_text(STUDY.replace("tangent: raw", "tangent: rough"))
    output = scm_study(project, "mine", code=1)
    assert "variants.second over params.yaml: student.common.tangent" in output
    assert len(output.strip().splitlines()) == 1
    assert not (project / "calls.txt").exists()


def test_nothing_to_draw_is_said(project):
    assert "no variant has finished" in scm_study(project, "mine", "--draw", code=1)


def test_without_a_commit_there_is_one_clear_line(project):
    shutil.rmtree(project / ".git")
    assert "in no git repository, but experiments are commits: run `git init" in scm_study(project, "mine", code=1)
    git(project, "init", "-q")
    output = scm_study(project, "mine", code=1)
    assert "has no commit yet: run `git add . && git commit`; experiments are commits" in output
    assert len(output.strip().splitlines()) == 1


def test_somebody_elses_repository_is_not_called_one_without_a_commit(project, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    output = scm_study(project, "mine", code=1)
    assert "belongs to another user: run `git config --global --add safe.directory" in output
    assert len(output.strip().splitlines()) == 1


def test_a_folder_of_a_repository_is_refused_in_one_line(project):
    shutil.rmtree(project / ".git")
    git(project.parent, "init", "-q")
    output = scm_study(project, "mine", code=1)
    assert "is only a folder of a git repository" in output and len(output.strip().splitlines()) == 1


def test_data_outside_the_project_need_an_absolute_path(project):
    with pytest.raises(UserError, match=r"data.path = \.\./raw: leads out"):
        clone.check(project, "../raw")
    clone.check(project, str(project.parent))


def test_studies_are_listed_with_their_first_line(project, capsys):
    assert cli.main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["mine", "A", "study", "of", "tests."] in [line.split() for line in lines]


def test_every_kind_of_figure_is_drawn_from_what_there_is(project):
    (project / "pipelines" / "studies" / "mine.yaml").write_text(ONE_VARIANT)
    scm_study(project, "mine")
    folder = project / "results" / "studies"
    for kind in ("terms", "versus", "bars"):
        options = "x: student.common.p_std, figures: [precision, recall, fd], " if kind == "versus" else ""
        figure = f"figure: {{kind: {kind}, {options}models: [scd]}}"
        (project / "pipelines" / "studies" / "mine.yaml").write_text(STUDY.partition("figure:")[0] + figure)
        for file in folder.iterdir():
            file.unlink()
        assert cli.main(["study", "mine", "--draw"]) == 0
        assert (folder / "mine.png").stat().st_size <= 60_000
        with Image.open(folder / "mine.png") as picture:
            assert picture.width > 300
        assert "<svg" in (folder / "mine.svg").read_text()
