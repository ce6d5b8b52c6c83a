"""The list of evaluations in MLflow's pages: what it shows, and its address.

MLflow's pages keep a view that people share in a tag of the experiment, and open it by an address that names the tag.
The view says which runs are listed, in which order, with which columns and how wide these are.
"""

import json
from typing import TYPE_CHECKING, Any

from scm.tracking.records import DISTANCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of an experiment whose pages are those of "Model training"; others open on pages for language models."""
NAME = "evaluations"
TAG = f"mlflow.sharedViewState.{NAME}"
EVALUATIONS = "tags.`scm.stage` = 'evaluate'"
TRAINING = "workflowType=machine_learning"
"""Part of an address by which a browser that has never seen the pages opens those of "Model training"."""
MOST_RUNS = 200
"""The newest evaluations, whose figures become columns."""
RUN_NAME, CREATED, DATASET = "attributes.`Run Name`", "runDateAndNestInfo", "attributes.`Dataset`"
WIDTHS = {RUN_NAME: 330, CREATED: 140, DATASET: 210}
"""Widths in pixels of the columns that hold text; those of figures have FIGURE."""
FIGURE = 100


def address(client: "MlflowClient", server: str, experiment: str) -> str:
    """Writes the view into the experiment; returns its address, or that of all experiments if there is none yet.

    Args:
        server: address of MLflow's pages, without a slash at its end.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage == "deleted":
        return f"{server}/#/experiments?{TRAINING}"
    wanted = {**KIND, **found.tags, TAG: json.dumps(_state(client, found.experiment_id))}
    for key, value in wanted.items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return f"{server}/#/experiments/{found.experiment_id}/runs?{TRAINING}&viewStateShareKey={NAME}"


def _state(client: "MlflowClient", experiment_id: str) -> dict[str, Any]:
    runs = client.search_runs([experiment_id], EVALUATIONS, max_results=MOST_RUNS)
    figures = columns({name for run in runs for name in run.data.metrics})
    shown = [f"metrics.`{name}`" for name in figures] + [DATASET]
    order = [RUN_NAME, CREATED, *shown]
    return {
        "searchFilter": EVALUATIONS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": order,
        "columnWidths": {name: WIDTHS.get(name, FIGURE) for name in order},
    }


def columns(names: set[str]) -> list[str]:
    """The figures that are columns: distances, fewest evaluations first, then recall at the same, then budgets.

    >>> columns({"fd_at_35", "fd_at_2", "kid_at_2", "recall_at_2", "teacher_images", "fd_floor"})
    ['fd_at_2', 'fd_at_35', 'recall_at_2', 'teacher_images']
    """
    counts = sorted(int(name.removeprefix(DISTANCE)) for name in names if name.startswith(DISTANCE))
    wanted = [*(f"{name}{count}" for name in (DISTANCE, "recall_at_") for count in counts)]
    return [name for name in [*wanted, "student_images", "teacher_images"] if name in names]
