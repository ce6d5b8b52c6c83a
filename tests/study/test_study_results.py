"""What a study draws, states and publishes, from figures made up here."""

import math
from dataclasses import replace

import pytest

from scm.charts.axes import IMAGES
from scm.charts.panels import PNG_BYTES, Level
from scm.params.project import Project
from scm.study import run, variants
from scm.study.experiments import Experiment
from scm.study.results import VariantResult, page, panels
from scm.tracking import sending, store
from tests.support import projects as shipped

BINS = range(8)


@pytest.fixture
def project(tmp_path):
    shipped.make_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def result(variant: variants.Variant, order: int, current: bool = True) -> VariantResult:
    """Figures that tell from which variant, model and number of evaluations they are."""
    metrics, progress, training = {}, {}, {}
    for model in variant.models:
        counts = {"teacher": (2, 35), "vsd": (1,)}.get(model, (1, 2))
        metrics[model] = {
            f"{name}@{nfe}": order + nfe / 100 for name in ("fd", "precision", "recall") for nfe in counts
        }
        one_step = {} if model in ("teacher", "vsd") else {"fd_1step": 20.0 + order}
        progress[model] = [{"images": images, "fd": 10.0 + order, **one_step} for images in (1024, 2048)]
        terms = ("tangent_term1", "tangent_term2")
        if model == "teacher":  # by snapshots, which are apart from the other lines
            terms, training[model] = ("path_term", "time_term"), [{"images": 3500}]
        training.setdefault(model, []).extend(
            {"images": images, **{f"{term}/{k}": images * n + k + n * (model == "teacher") for k in BINS}}
            for images in (1000, 2000, 3000, 4000)
            for n, term in enumerate(terms, 1)
        )
    return VariantResult(
        variant, Experiment(variant.experiment, f"{order:040x}", 1e9), metrics, progress, training, current
    )


def all_of(project, name: str, without: tuple[str, ...] = ()) -> tuple[variants.Study, list[VariantResult]]:
    study = variants.read(project, name)
    found = [result(v, order) for order, v in enumerate(study.variants) if v.name not in without]
    return study, found


def test_terms_are_means_of_the_last_half_at_the_centres_of_the_bins(project):
    by_path, by_time, first, second = panels(*all_of(project, "fig4"))
    assert list(by_path.lines[1].y) == [3501.0 + k for k in BINS] and by_path.title.startswith("Teacher: change of f")
    assert list(by_time.lines[1].y) == [7002.0 + k for k in BINS] and by_time.lines[1].label == ""
    line = first.lines[0]
    assert list(line.x) == pytest.approx([(k + 0.5) * math.pi / 16 for k in BINS])
    assert list(line.y) == pytest.approx([3500 + k for k in BINS])
    assert list(second.lines[0].y) == pytest.approx([7000 + k for k in BINS])
    assert [line.label for line in by_path.lines] == ["trigflow-positional", "edm-positional", "edm-fourier16"]
    assert {line.label for panel in (by_time, first, second) for line in panel.lines} == {""}  # named once


def test_progress_is_drawn_for_one_and_two_steps(project):
    one, two = panels(*all_of(project, "fig5a"))
    assert (one.title, two.title, one.x_label) == ("sCD, 1 step", "sCD, 2 steps", IMAGES)
    assert [list(line.y) for line in one.lines] == [[20, 20], [21, 21], [22, 22]]
    assert [list(line.y) for line in two.lines] == [[10, 10], [11, 11], [12, 12]]
    assert [line.label for line in two.lines] == ["", "", ""]  # named once


def test_a_missing_variant_leaves_the_others_their_colours(project):
    whole, part = panels(*all_of(project, "fig5a")), panels(*all_of(project, "fig5a", without=("normalized",)))
    assert [line.colour for line in part[0].lines] == [line.colour for line in whole[0].lines[1:]]
    assert [line.label for line in part[0].lines] == ["clipped", "raw"]


def test_discrete_time_is_drawn_against_continuous_time(project):
    (panel,) = panels(*all_of(project, "fig5c", without=("N=512",)))
    assert panel.ticks == [256, 1024, 2048, 4096]
    half = [[6.01, 7.01, 8.01], [6.02, 7.02, 8.02]]
    assert [list(line.y) for line in panel.lines] == [[1.01, 3.01, 4.01, 5.01], [1.02, 3.02, 4.02, 5.02], *half]
    assert [(level.y, level.label) for level in panel.levels] == [
        (0.01, "continuous, 1 evaluation"),
        (0.02, "continuous, 2 evaluations"),
    ]
    assert isinstance(panel.levels[0], Level)
    names = [
        f"Discrete sCD, {steps}, {kind}" for kind in ("fp32", "bf16") for steps in ("1 evaluation", "2 evaluations")
    ]
    assert [line.label for line in panel.lines] == names


def test_multistep_students_are_one_line_although_each_takes_other_evaluations(project):
    study, found = all_of(project, "table6")
    for each, segments in zip(found[1:], (2, 4, 8, 16), strict=True):
        each.metrics["multistep"] = {f"fd@{segments}": float(segments)}
    (panel,) = panels(study, found)
    assert [(list(line.x), list(line.y), line.label) for line in panel.lines] == [
        ([2, 4, 8, 16], [2, 4, 8, 16], "Multistep sCD")
    ]
    assert [level.label for level in panel.levels] == ["sCD, 1 evaluation", "sCD, 2 evaluations"]


def test_guidance_has_a_panel_for_each_figure_and_a_line_for_each_model(project):
    precision, recall, distance = panels(*all_of(project, "fig7"))
    assert [panel.title for panel in (precision, recall, distance)] == ["precision", "recall", "Fréchet distance"]
    steps = {"sCD": ("1 evaluation", "2 evaluations"), "VSD": ("1 evaluation",)}
    steps["sCD + VSD"] = steps["sCD"]
    students = [f"{name}, {each}" for name, counts in steps.items() for each in counts]
    assert [line.label for line in precision.lines] == ["Teacher", *students]
    assert all(list(line.x) == [1.0, 1.2, 1.4, 1.6, 1.8, 2.0] for line in recall.lines)
    assert list(distance.lines[0].y) == [index + 0.35 for index in range(6)]  # the teacher's full sampler


def test_a_guided_teacher_is_one_line_although_it_takes_twice_the_evaluations(project):
    study, found = all_of(project, "fig7")
    for each in found[1:]:
        doubled = {key.replace("@35", "@70").replace("@2", "@4"): y for key, y in each.metrics["teacher"].items()}
        each.metrics["teacher"] = doubled
    distance = panels(study, found)[2]
    assert [line.label for line in distance.lines].count("Teacher") == 0  # named in the first panel alone
    assert len(distance.lines) == 6 and len(distance.lines[0].x) == 6


def test_parts_have_a_bar_for_the_teacher_and_each_step_of_the_student(project):
    (panel,) = panels(*all_of(project, "parts"))
    assert [bars.label for bars in panel.bars] == ["Teacher, 35 evaluations", "sCD, 1 evaluation", "sCD, 2 evaluations"]
    assert list(panel.bars[0].heights) == [0.35, 1.35, 2.35, 3.35]
    assert len(panel.groups) == 4


def test_the_page_states_figures_what_is_missing_and_older_code(project):
    study = variants.read(project, "fig5a")
    normalized, _, raw = study.variants
    text = page(study, [result(normalized, 0), result(raw, 2, current=False)], ["clipped"])
    assert "| raw | sCD | 2 | 2.020 | 2.020 | 2.020 |" in text
    assert "| raw | sCD | 1,024 | 22.000 | 12.000 |" in text  # over the training
    assert "Missing: clipped." in text
    assert "Measured with other code than the present one: raw." in text
    assert study.paper is not None and f"The paper: {study.paper}" in text
    assert "`scm study fig5a`" in text and "preset digits" in text
    own = replace(study, paper=None)
    assert "paper" not in page(own, [result(normalized, 0)], [])


@pytest.mark.parametrize(
    "name", ["fig4", "fig5a", "fig5b", "fig5c", "fig7", "headline", "parts", "seeds", "start", "table3", "table6"]
)
def test_pictures_are_small_and_the_same_each_time(project, name):
    study, found = all_of(project, name)
    svg, png, _ = run.write_figures(project, study, found, [])
    first = svg.read_bytes(), png.read_bytes()
    run.write_figures(project, study, found, [])
    assert (svg.read_bytes(), png.read_bytes()) == first
    assert len(first[1]) <= PNG_BYTES


def test_mlflow_gets_one_run_for_each_variant_and_model_once(project, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    study, found = all_of(project, "fig5b")
    run.show(Project.open(project), study, found[:1])
    run.show(Project.open(project), study, found)
    client = store.connect(Project.open(project).tracking)
    experiment = client.get_experiment_by_name("digits · fig5b")
    assert experiment is not None
    found_runs = client.search_runs([experiment.experiment_id])
    names = ["adaptive · scd", "adaptive · teacher", "none · scd", "none · teacher"]
    assert sorted(each.info.run_name for each in found_runs) == names
    (shown,) = [each for each in found_runs if each.info.run_name == "none · scd"]
    assert shown.data.metrics["fd_at_2"] == 1.02
    assert shown.data.params["student.adaptive_weighting"] == "false"
    assert shown.data.params["variant"] == "none"
    assert [point.step for point in client.get_metric_history(shown.info.run_id, "fd")] == [1024, 2048]


def test_mlflow_shows_what_the_student_was_that_a_student_starts_from(project, monkeypatch):
    records = {}
    monkeypatch.setattr(sending, "publish", lambda record, settings: records.setdefault(record.item, record))
    study, found = all_of(project, "fig7")
    run.show(Project.open(project), study, found[:1])
    assert {records[name].params["student.start"] for name in ("scd", "vsd")} == {"teacher"}
    params = records["scd_vsd"].params
    assert (params["student.start"], params["student.scd.start"]) == ("scd", "teacher")
    assert params["student.scd.images"] == records["scd"].params["student.images"] != params["student.images"]


def test_a_dead_server_is_asked_once(project, monkeypatch):
    asked = []
    monkeypatch.setattr(sending, "publish", lambda record, settings: asked.append(record.name))
    study, found = all_of(project, "fig5b")
    run.show(Project.open(project), study, found)
    assert asked == ["adaptive · teacher"]


def test_means_over_seeds_stand_below_the_trainings_that_they_are_of(project):
    study, found = all_of(project, "seeds")
    text = page(study, found, [])
    assert "| seed-1 | sCD | 2 | 1.020 | 1.020 | 1.020 |" in text
    means = text.partition("Mean ± standard deviation over seed:")[2]
    row = "| seed-0, seed-1, seed-2 | sCD | 2 | 3 | 1.020 ± 1.000 | 0.557 ± 0.436 | 1.020 ± 1.000 | 1.020 ± 1.000 |"
    assert row in means and means.count("seed-0, seed-1, seed-2") == 2 + 2 + 2
    (panel,) = panels(study, found)
    assert panel.groups == ["Teacher", "sCD", "sCT"] and [bars.label for bars in panel.bars] == [
        "1 evaluation", "2 evaluations", "35 evaluations"
    ]  # fmt: skip
    assert list(panel.bars[1].heights)[1:] == pytest.approx([1.02, 1.02]) and math.isnan(panel.bars[1].heights[0])
    assert list(panel.bars[2].heights)[:1] == pytest.approx([1.35]) and panel.bars[1].errors[1] == pytest.approx(1.0)
    alone = page(study, found[:1], ["seed-1", "seed-2"])
    assert "| seed-0 | sCD | 2 | 1 | 0.020 | 0.057 | 0.020 | 0.020 |" in alone


def test_means_have_columns_of_held_out_images_where_these_were_measured_and_floors_below(project):
    study, found = all_of(project, "seeds")
    assert "held out" not in page(study, found, []) and "Floors" not in page(study, found, [])
    for shift, result in enumerate(found):
        more = {"fd_held_out@2": 3.0 + shift, "copies@2": 0.05, "fd_floor": 0.2 + shift / 10, "copies_expected": 0.045}
        result.metrics["scd"] |= more
    means = page(study, found, []).partition("over seed:")[2]
    assert "| recall | FD, held out | copies |" in means
    assert "| 1.020 ± 1.000 | 4.000 ± 1.000 | 0.050 ± 0.000 |" in means
    assert "| sCT | 2 | 3 |" in means and "| 1.020 ± 1.000 |  |  |" in means
    floors = "Floors: as many draws from the training images have FD 0.300, and of held-out images are copies 0.045."
    assert floors in means


def test_variants_that_differ_in_more_than_the_seed_have_means_of_their_own(project):
    study, found = all_of(project, "seeds")
    other = replace(found[2], variant=replace(found[2].variant, own={"seed": 2, "network.width": 8}))
    means = page(study, [*found[:2], other], []).partition("over seed:")[2]
    assert "| seed-0, seed-1 | sCT | 1 | 2 | 0.510 ± 0.707 |" in means and "| seed-2 | sCT | 1 | 1 | 2.010 |" in means
