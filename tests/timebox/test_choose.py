"""The parameters that are chosen for a time: possible ones, that fit, for any images and any machine."""

import itertools
import math
from pathlib import Path

import pytest

from scm.base.project import TEACHER
from scm.errors import UserError
from scm.params import dump, validate
from scm.presets.apply import preview
from scm.timebox import choose
from scm.timebox.choose import FEWEST, Chooser, Rung, levels_of, rungs
from scm.timebox.speeds import Machine, Speeds
from scm.timebox.survey import Survey
from tests.support.projects import make_project


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    file = make_project(folder)
    return {name: dump(preview(file, folder, name)) for name in ("digits-plain", "cifar3", "folder")}


def survey(**changes) -> Survey:
    known = {
        "source": "folder", "path": Path("data/raw"), "count": 60_000, "held_out": 6000, "classes": 10, "smallest": 500,
        "side": 28, "colour": False, "looked": 200, "unusable": 0, "read": 1e-3, "decode": 2e-4,
    }  # fmt: skip
    return Survey(**{**known, **changes})


def machine(factor: float = 1.0, device: str = "cpu") -> Machine:
    return Machine(device, "fp32", 2, 3.0 * factor, 3e-4 * factor, 2e-4 * factor, 1e-8 * factor)


def speeds(rung: Rung, factor: float = 1.0) -> Speeds:
    """A machine whose steps take time in proportion to pixels and width; two cores have a factor of about 1."""
    step = 3e-4 * factor * (rung.resolution / 8) ** 1.5 * (rung.width / 16) * rung.blocks
    steps = {TEACHER: step, "scd": 2.4 * step, "sct": 2.1 * step}
    return Speeds(steps, dict.fromkeys(steps, 20 * step), step / 4, step / 50, 10_000 * rung.width)


def chosen(presets, minutes, factor=1.0, device="cpu", resolution=None, **changes):
    found = survey(**changes)
    chooser = Chooser(found, "data/raw", machine(factor, device), presets)
    return chooser.choose([(rung, speeds(rung, factor)) for rung in rungs(found, resolution)], minutes)


@pytest.mark.parametrize("factor", [0.01, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("minutes", [15, 60, 1440])
def test_the_plan_fits_the_box_and_is_not_idle(presets, minutes, factor):
    plan = chosen(presets, minutes, factor)
    assert plan.total <= minutes * 60 * (1 - choose.MARGIN)
    assert plan.total >= minutes * 60 * 0.6 or plan.params.teacher.images >= choose.MOST - choose.UNIT


@pytest.mark.parametrize("side", [8, 300])
def test_more_minutes_never_give_less(presets, side):
    """With the same network never fewer images, and never a smaller network."""
    plans = [chosen(presets, minutes, side=side) for minutes in (30, 45, 46, 90, 120, 400, 1000)]
    needed = [plan.rung.enough for plan in plans]
    assert needed == sorted(needed)
    for _, group in itertools.groupby(plans, lambda plan: plan.rung):
        images = [int(plan.params.teacher.images) for plan in group]
        assert images == sorted(images)


@pytest.mark.parametrize("side", [4, 8, 9, 12, 16, 20, 24, 28, 30, 32, 40, 48, 63, 64, 128])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_choice_is_possible(presets, side, device):
    teachers = itertools.cycle((FEWEST, FEWEST + choose.UNIT, 1000 * choose.UNIT))
    for colour, classes in itertools.product((False, True), (0, 3, 100)):
        found = survey(colour=colour, classes=classes, held_out=0 if classes == 100 else 600, side=side)
        for level in choose.LEVELS[:: 1 if side == 28 else 3]:
            budgets = {"teacher": next(teachers), "level": level, "samples": level.fewest, "epochs": 7}
            chosen = choose.params_of(found, "data/raw", rungs(found, side)[classes % 4], device, presets, **budgets)
            params = validate(dump(chosen), "chosen")
            assert params.data.resolution == side and params.data.channels == (3 if colour else 1)
            assert params.data.labels == (classes > 0) and bool(params.data.held_out) == (classes != 100)
            assert params.teacher.images >= FEWEST and params.teacher.batch == (64 if device == "cpu" else 256)


def test_each_network_is_possible(presets):
    found = survey(side=300, colour=True)
    for rung in rungs(found):
        params = choose.params_of(found, "data/raw", rung, "cpu", presets)
        validate(dump(params), str(rung))
    assert [rung.resolution for rung in rungs(found)] == sorted(rung.resolution for rung in rungs(found))
    assert [rung.enough for rung in rungs(found)] == sorted(rung.enough for rung in rungs(found))
    assert {rung.resolution for rung in rungs(survey(side=28))} == {28}


def test_the_digits_network_is_the_presets(presets):
    found = survey(side=8, source="digits", count=1797, held_out=184)
    params = choose.params_of(found, "data/raw", rungs(found)[0], "cpu", presets)
    network = {"width": 16, "channels_per_head": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4]}
    assert dump(params)["network"].items() >= network.items() and params.preset == "digits-plain"
    assert levels_of(16) == ([1, 2, 2], [8]) and levels_of(28) == ([1, 2, 2], [7]) and levels_of(64)[1] == [8]


def test_few_images_have_no_large_network(presets):
    assert max(rung.width for rung in rungs(survey(side=8, count=1797))) == 48
    plan = chosen(presets, 600, side=8, source="digits", count=1797, held_out=184)
    assert plan.rung.width <= 48 and "look at the share of copies" in choose.expectation(plan)[1]


def test_budgets_shrink_together(presets):
    params = chosen(presets, 15).params
    teacher, student = params.teacher, params.student
    assert teacher.lr.warmup < teacher.lr.decay_from < teacher.images
    for name in student.methods:
        settings = student.method(name)
        assert settings.lr.warmup < settings.lr.decay_from < settings.images
        assert settings.tangent_warmup < settings.images / 4


def test_too_few_minutes_name_how_many_it_takes(presets):
    with pytest.raises(UserError, match=r"2 minutes are too few .* give about \d+ minutes") as found:
        chosen(presets, 2)
    needed = int(str(found.value).split("about ")[1].split()[0])
    assert chosen(presets, needed).params.teacher.images >= FEWEST
    with pytest.raises(UserError, match="too few"):
        chosen(presets, needed / 1.3)


def test_too_few_images_and_other_resolutions_are_refused():
    with pytest.raises(UserError, match="99 images are too few to learn from: add images, at least 100"):
        rungs(survey(count=99))
    for resolution in (3, 129, 512):
        with pytest.raises(UserError, match=f"--resolution {resolution} is not between 4 and 128"):
            rungs(survey(), resolution)


def test_each_choice_has_a_reason_in_one_line(presets):
    plan = chosen(presets, 60, unusable=3, colour=True)
    told = dict(plan.reasons)
    assert told["data.on_bad_image: skip"].startswith("3 of 200 images")
    assert all(reason and "\n" not in reason for reason in told.values())
    assert set(plan.seconds) == {
        "prepare", "encode", "reference", "train_teacher", "report",
        *(f"train_student@{name}" for name in ("scd", "sct")),
        *(f"{stage}@{name}" for stage in ("select_ema", "evaluate") for name in ("teacher", "scd", "sct")),
    }  # fmt: skip
    assert all(seconds and math.isfinite(seconds) for seconds in plan.seconds.values())


@pytest.mark.parametrize(
    ("minutes", "words"), [(1000, "of that quality"), (45, "weaker samples"), (12, "a first look")]
)
def test_the_outlook_follows_the_budget(presets, minutes, words):
    assert words in choose.expectation(chosen(presets, minutes, side=16))[0]
