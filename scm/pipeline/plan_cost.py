"""Estimates how long a plan will take, from the run files of earlier runs or, failing these, their runs in MLflow."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from scm.base.count import Count
from scm.base.documents import read_json
from scm.errors import UserError
from scm.params.project import Project
from scm.pipeline.plan import RUNS, Step
from scm.results.reading import Seconds, run_path
from scm.tracking import store
from scm.tracking.records import experiment_name

BUDGETS = {
    "train_teacher": ("teacher.images",),
    "train_student": ("student.{item}.images",),
    "select_ema": ("select.samples",),
    "evaluate": ("evaluate.samples", "evaluate.repeats"),
}
"""Parameters to each of which a stage's time is proportional."""
UNRECORDED = {"report": 5.0}
"""Assumed seconds of a stage that leaves no run file."""
PATIENCE = 20.0
"""Seconds that a plan waits for MLflow."""


class Timed(TypedDict):
    """What an estimate takes from a run file."""

    seconds: Seconds
    params: dict[str, Any]


@dataclass(frozen=True)
class Earlier:
    """How long an earlier run of a stage took, and the flat parameters it ran with."""

    seconds: float
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """The time that a stage is expected to take."""

    seconds: float | None  # None = unknown
    about: bool = False  # True = scaled by the stage's budget, as the earlier run had other parameters


def estimates(project: Project, steps: Sequence[Step]) -> dict[str, Estimate]:
    """Estimates each stage of a plan, by its name; stages that do not run take no time.

    MLflow is asked only about stages without a run file, and only for runs of the project's preset. If it does not
    answer, a line on stderr says so.
    """
    found = {step.name: Estimate(0.0) for step in steps}
    running = [step for step in steps if step.status == RUNS]
    earlier = {step.name: _from_file(run_path(project.root, step.name)) for step in running}
    asked = [name for name, run in earlier.items() if run is None and name not in UNRECORDED]
    earlier |= _from_mlflow(project, asked) if asked else {}
    for step in running:
        run, unrecorded = earlier[step.name], UNRECORDED.get(step.name)
        found[step.name] = Estimate(unrecorded, unrecorded is not None) if run is None else _scaled(step, run)
    return found


def _scaled(step: Step, run: Earlier) -> Estimate:
    stage, _, item = step.name.partition("@")
    seconds = run.seconds
    for key in (key.format(item=item) for key in BUDGETS.get(stage, ())):
        before, now = _count(run.params.get(key)), _count(step.params.get(key))
        if before and now:
            seconds *= now / before
    about = any(_text(run.params.get(key)) != _text(value) for key, value in step.params.items())
    return Estimate(round(seconds, 1), about)


def _count(value: Any) -> int | None:
    """A budget as a number; params.yaml has it as a count such as 8Mi, MLflow as text. None if it is neither."""
    try:
        return Count(int(value) if str(value).isdecimal() else value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _from_file(path: Path) -> Earlier | None:
    """Reads a run file; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        run = read_json(path, Timed)
    except UserError:
        return None
    return _trained(Earlier(run["seconds"], run["params"]))


def _trained(run: Earlier) -> Earlier | None:
    """None for an imported teacher: the seconds of an import say nothing about a training."""
    return None if "imported.file" in run.params else run


def _from_mlflow(project: Project, names: Sequence[str]) -> dict[str, Earlier]:
    """The last finished run of each stage that the store knows, if it answers within PATIENCE."""
    settings = project.tracking
    if not settings.enabled or store.is_new(settings):  # asking must not make a store
        return {}
    found: dict[str, Earlier] = {}

    def work(client: Any) -> None:
        experiment = client.get_experiment_by_name(experiment_name(settings, project.params.preset))
        if experiment is not None:
            runs = {name: _last_run(client, experiment.experiment_id, name) for name in names}
            found.update({name: run for name, run in runs.items() if run is not None})

    fault = store.asked(settings, work, PATIENCE)
    if fault is not None:
        print(f"mlflow: {fault} ({settings.shown}); stages that only it knows have no estimate", file=sys.stderr)
    return dict(found)


def _last_run(client: Any, experiment: str, name: str) -> Earlier | None:
    stage, _, item = name.partition("@")
    wanted = [f"tags.`scm.stage` = '{stage}'", "attributes.status = 'FINISHED'"]
    wanted += [f"tags.`scm.item` = '{item}'"] if item else []
    runs = client.search_runs([experiment], " and ".join(wanted), order_by=["attributes.end_time DESC"], max_results=1)
    if not runs or runs[0].info.end_time is None:
        return None
    return _trained(Earlier((runs[0].info.end_time - runs[0].info.start_time) / 1000, runs[0].data.params))
