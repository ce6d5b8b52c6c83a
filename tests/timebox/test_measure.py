"""The measuring: the process that does it, the questions that it is asked, and what becomes of the answers."""

import json
import sys

import pytest
import torch

from scm.errors import UserError
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.protocol import Batch
from scm.params.project import Project
from scm.pipeline.plan import RUNS, UP_TO_DATE, Step
from scm.pipeline.plan_cost import Estimate
from scm.samplers.ode import edm_sigmas
from scm.timebox import measure, present, worker
from scm.timebox.measure import Worker
from scm.timebox.predict import TRAINING, Images, evaluations, evaluations_by_time, predicted, total, ways_of
from scm.timebox.speeds import Machine, Speeds
from tests.support.models import tiny_model
from tests.support.projects import METHODS, params_of_all, params_with, values_with

SMALL = {
    "network.width": 16, "teacher.batch": 16, "student.common.batch": 16, "evaluate.batch": 16,
    "student.methods": {"scd": "teacher"}, "evaluate.models": ["teacher", "scd"], "reference.classifier.width": 8,
}  # fmt: skip
MACHINE = Machine("cpu", "fp32", 2, 3.0, 3e-4, 2e-4, 1e-8)


def test_a_network_is_measured_by_its_own_trainings():
    answer = worker.answer(json.dumps({"params": values_with(SMALL), "classes": 10, "seconds": 0.01}))
    found = Speeds(**answer)
    assert set(found.step) == set(found.snapshot) == {"teacher", "scd"}
    assert all(seconds > 0 for seconds in (*found.step.values(), *found.snapshot.values(), found.evaluation))
    assert found.draw >= 0 and 50_000 < found.parameters < 500_000


@pytest.mark.parametrize("every", [1, 2])
def test_trajectories_are_measured_apart_from_the_steps(every, monkeypatch):
    """A teacher that takes a second: 9 in 5 steps, for one of 3 times 2 steps. No later step solves any more."""
    passed = []
    monkeypatch.setattr(worker, "now", lambda device: float(len(passed)))

    def teacher(x, t, labels):
        passed.append(t)
        return torch.zeros_like(x)

    data, cpu = worker.Noise([1, 8, 8], 10, 4, 0.5), torch.device("cpu")
    regression = TrajectoryDistillation(
        sigma_d=0.5, teacher=teacher, sigmas=tuple(edm_sigmas(5, 0.002, 80.0, 7.0)), classes=10, kept=4, uses=3,
        from_noise=0.3, p_mean=0.0, p_std=1.0, seed=0, every=every,
    )  # fmt: skip
    kept, seconds = worker.apart(regression, data, cpu)
    assert seconds == 9 / (3 * every)
    before = len(passed)
    for step in range(40):
        kept.places(Batch(*data.batch_at(0), torch.Generator().manual_seed(step)), 4 * step)
    assert len(passed) == before
    student = tiny_model()
    assert worker.apart(student, data, cpu) == (student, 0.0)


def test_the_machine_is_measured():
    found = Machine(**worker.answer(json.dumps({"params": values_with(SMALL), "classes": 0})))
    assert (found.device, found.precision) == ("cpu", "fp32") and found.learn > found.features > 0 < found.compare
    other = values_with({"reference.extractor": "inception", "reference.weights": "x.pt"})
    found = Machine(**worker.answer(json.dumps({"params": other, "classes": 0})))
    assert found.learn is None and found.features is None


def test_a_network_too_large_for_this_machine_is_not_measured():
    huge = values_with({"network.width": 4096, "network.channels_per_head": 64, "network.blocks": 8})
    answer = worker.answer(json.dumps({"params": huge, "classes": 10, "seconds": 0.01}))
    assert "GiB, more than half of the" in answer["error"]


def process(monkeypatch, script: str) -> None:
    """The worker is a script of the test's own."""
    monkeypatch.setattr(Worker, "program", (sys.executable, "-S", "-c", script))


def test_answers_come_back_and_errors_are_raised(monkeypatch):
    answers = [{"ready": 1.5}, {**vars(MACHINE), "start": 0.0}, {"error": "too large"}]
    lines = [json.dumps(each) for each in answers]
    process(monkeypatch, f"for line in {lines!r}:\n    print(line, flush=True)\n    input()")
    with Worker(60, cpu_clock=True) as asked:
        assert asked.machine({}, 10) == Machine(**{**vars(MACHINE), "start": 1.5})
        with pytest.raises(UserError, match="too large"):
            asked.network({}, 10, 1.0)
        assert 0 < asked.left <= 60


def test_a_process_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(measure, "PATIENCE", 0.0)
    process(monkeypatch, "import time\nprint('{}', flush=True)\ntime.sleep(60)")
    with Worker(0.2) as asked:
        assert asked.network({}, 10, 1.0) is None
        with pytest.raises(UserError, match="could not be measured"):
            asked.machine({}, 10)


def speeds(*models: str) -> Speeds:
    return Speeds(dict.fromkeys(models, 1e-3), dict.fromkeys(models, 0.1), 2e-4, 1e-5, 1000)


def test_the_evaluations_of_each_method_are_its_samplers():
    params = params_of_all()
    numbers = {model: [evaluations(params, model, way) for way in ways_of(params, model)] for model in METHODS}
    assert numbers["multistep"] == [3] and numbers["meanflow"] == [1, 2, 4]
    assert numbers["scd"] == [1, *[2] * len(params.select.t_mid)]
    assert [evaluations(params, "teacher", way) for way in ways_of(params, "teacher")] == [35]


def test_the_evaluations_by_time_are_those_that_the_selection_makes():
    params = params_of_all()
    numbers = {model: evaluations_by_time(params, model) for model in ("teacher", "scd", "meanflow", "multistep")}
    assert numbers["teacher"] == [3, 5, 7, 9, 13, 17] and numbers["scd"] == numbers["meanflow"] == [1] * 6
    assert numbers["multistep"] == [1, 1, 2, 3, 3, 3]


def test_a_training_is_in_proportion_to_its_images_and_so_is_selection_to_its_samples():
    few, many = (
        params_with({"teacher.images": images, "select.samples": samples, "evaluate.samples": samples})
        for images, samples in (("192Ki", 512), ("320Ki", 1024))
    )  # fmt: skip
    images, measured = Images(1000, 100, 10, 1e-3, 1e-4), speeds("teacher", "scd", "sct")
    first, second = (predicted(params, images, MACHINE, measured) for params in (few, many))
    steps = second["train_teacher"] - first["train_teacher"]
    assert steps == pytest.approx(128 * 1024 * 1e-3 * TRAINING, rel=0.1)
    assert second["select_ema@scd"] > first["select_ema@scd"] and second["prepare"] == first["prepare"]
    assert total(second, MACHINE) > sum(second.values())


def test_what_is_not_known_stays_unknown():
    params = params_with({})
    images = Images(1000, 100, 10)
    found = predicted(params, images, MACHINE, None)
    assert found["prepare"] is found["encode"] is found["train_teacher"] is found["select_ema@scd"] is None
    assert found["reference"] and found["report"]
    found = predicted(params, None, MACHINE, speeds("teacher", "scd"))
    assert found["train_teacher"] and found["train_student@sct"] is None and found["evaluate@teacher"] is None


class Fake:
    """A worker that answers at once."""

    network_fails = False

    def __init__(self, seconds: float) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def machine(self, params, classes):
        return MACHINE

    def network(self, params, classes, seconds):
        if self.network_fails:
            raise UserError("it is too large")
        return speeds("teacher", "scd", "sct")


STEPS = [
    Step(name, RUNS)
    for name in ("prepare", "encode", "reference", "train_teacher", "select_ema@scd", "evaluate@scd", "report")
]


def test_a_plan_takes_the_predictions_where_it_knew_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(present, "Worker", Fake)
    costs = {step.name: Estimate(None) for step in STEPS}
    costs |= {"encode": Estimate(12.0), "reference": Estimate(9.0, about=True), "report": Estimate(5.0, about=True)}
    project, told = Project(tmp_path, params_with({})), list[str]()
    found = present.measured(project, STEPS, costs, told.append)
    assert found["encode"] == Estimate(12.0) and all(each.seconds for each in found.values())
    assert found["reference"].about and found["reference"] != costs["reference"]
    monkeypatch.setattr(Fake, "network_fails", True)
    found = present.measured(project, STEPS, costs, told.append)
    assert found["train_teacher"] == Estimate(None) and found["prepare"].seconds
    assert told[-1] == "the trainings' times stay unknown: it is too large"


def test_images_that_are_not_here_leave_their_stages_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(present, "Worker", Fake)
    params, told = params_with({"data.source": "folder"}), list[str]()
    costs = {step.name: Estimate(None) for step in STEPS}
    found = present.measured(Project(tmp_path, params), STEPS, costs, told.append)
    assert found["prepare"] == found["evaluate@scd"] == Estimate(None) and found["train_teacher"].seconds
    assert "does not exist" in told[0]


def test_nothing_is_measured_where_all_is_known(tmp_path):
    steps, costs = [Step("encode", UP_TO_DATE)], {"encode": Estimate(0.0)}
    assert present.measured(Project(tmp_path, params_with({})), steps, costs, pytest.fail) == costs
