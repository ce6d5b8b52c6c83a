"""`scm init`: what it prints, writes and refuses."""

import pytest

from scm.cli import main
from scm.params import dump, load
from scm.presets.apply import preview
from scm.timebox import box
from tests.support.projects import make_project
from tests.timebox.test_choose import machine, speeds
from tests.timebox.test_survey import folder


class Fake:
    """Measures nothing: a machine of the test's own, on which a step takes `factor` times as long."""

    factor = 0.1

    def __init__(self, seconds: float, cpu_clock: bool) -> None:
        self.left = seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def machine(self, params, classes):
        return machine(self.factor)

    def network(self, params, classes, seconds):
        own = params["network"]
        rung = box.Rung(params["data"]["resolution"], own["width"], own["blocks"])
        return speeds(rung, self.factor)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(box, "Worker", Fake)
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


def init(*arguments: str) -> int:
    return main(["init", *arguments])


def test_params_yaml_is_written_with_its_comments_and_the_users_own_sections(project, tmp_path, capsys):
    folder(tmp_path / "data/raw/shapes", 1300, colour=True)
    project.write_text(project.read_text().replace("experiment: null", "experiment: mine"))
    assert init("--images", "data/raw/shapes", "--minutes", "30") == 0
    params, told = load(project), capsys.readouterr().out
    assert (params.data.path, params.data.source, params.data.channels) == ("data/raw/shapes", "folder", 3)
    assert params.data.resolution == 12 and params.data.held_out == 0.1 and params.preset == "cifar3"
    assert params.mlflow.experiment == "mine" and "# share of the images that no training sees" in project.read_text()
    assert "params.yaml is written, on the preset cifar3. Next: scm run" in told
    assert all(f"\n{stage} " in told for stage in ("train_teacher", "evaluate@sct", "report", "together"))


def test_a_dry_run_writes_nothing(project, capsys):
    before = project.read_text()
    assert init("--images", "digits", "--minutes", "30", "--dry-run") == 0
    assert project.read_text() == before and "data: digits, data/raw" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "nowhere", "--minutes", "30"), "nowhere does not exist"),
        (("--images", "few", "--minutes", "30"), "few: 30 images are too few to learn from: add images"),
        (("--images", "digits", "--minutes", "0.1"), "0.1 minutes are too few to train on 15Ki images at 8 pixels"),
        (("--images", "digits", "--minutes", "30", "--resolution", "256"), "--resolution 256 is not between 4 and 128"),
        (("--images", "models", "--minutes", "30"), "the pipeline writes files there"),
        (("--images", "digits", "--minutes", "30", "--gpu-hours", "1"), "--gpu-hours: torch finds no GPU here"),
    ],
)
def test_what_is_refused_leaves_params_yaml_alone(project, tmp_path, capsys, arguments, said):
    folder(tmp_path / "few", 30)
    folder(tmp_path / "models", 120)
    before = project.read_text()
    assert init(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("scm: error: ") and said in error and project.read_text() == before


@pytest.mark.parametrize("arguments", [(), ("--images", "digits"), ("--images", "digits", "--minutes", "0")])
def test_images_and_minutes_are_needed(project, arguments):
    with pytest.raises(SystemExit):
        init(*arguments)


def test_images_elsewhere_have_an_absolute_path(project, tmp_path):
    assert box.placed(tmp_path / "data/raw", tmp_path) == "data/raw"
    assert box.placed(tmp_path.parent / "others", tmp_path) == str(tmp_path.parent / "others")


def test_a_preset_with_further_values_is_checked_as_a_whole(project, tmp_path):
    from scm.errors import UserError
    from scm.presets.apply import apply

    before = project.read_text()
    with pytest.raises(UserError, match="decay_from"):
        apply(project, tmp_path, "digits", further={"teacher": {"images": "8Ki"}})
    assert project.read_text() == before
    apply(project, tmp_path, "digits", further={"teacher": {"images": "640Ki"}})
    assert load(project).teacher.images == 640 * 1024
    plain = dump(preview(project, tmp_path, "digits"))
    assert dump(load(project)) == {**plain, "teacher": {**plain["teacher"], "images": "640Ki"}}
