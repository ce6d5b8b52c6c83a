"""scm.tracking.view: the list of evaluations, as a view in a tag of the experiment."""

import json
from pathlib import Path

from scm.params.project import TrackingSettings
from scm.tracking import sending, store, view
from scm.tracking.records import RunRecord

SERVER = "http://127.0.0.1:5000"


def test_the_view_has_the_figures_of_the_experiments_evaluations(settings: TrackingSettings, tmp_path: Path) -> None:
    for item, figures in (
        ("scd", {"fd@1": 7.6, "fd@2": 5.3, "recall@2": 0.9, "kid@2": 0.1}),
        ("teacher", {"fd@35": 3.8}),
    ):
        tags, metrics = {"scm.preset": "digits"}, {**figures, "teacher_images": 8192.0}
        record = RunRecord(item, item, "evaluate", item, tags=tags, metrics=metrics, status="FINISHED")
        assert sending.publish(record, settings)
    client = store.connect(settings)
    experiment = client.get_experiment_by_name("digits")
    client.delete_experiment_tag(experiment.experiment_id, "mlflow.experimentKind")
    place = f"{SERVER}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    assert view.address(client, SERVER, "digits") == f"{place}&viewStateShareKey=evaluations"
    tags = client.get_experiment_by_name("digits").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(tags["mlflow.sharedViewState.evaluations"])
    names = ["fd_at_1", "fd_at_2", "fd_at_35", "recall_at_2", "teacher_images"]
    assert state["selectedColumns"] == [*(f"metrics.`{name}`" for name in names), "attributes.`Dataset`"]
    assert state["columnOrder"][:3] == ["attributes.`Run Name`", "runDateAndNestInfo", "metrics.`fd_at_1`"]
    assert {*state["columnOrder"]} == {*state["columnWidths"]} and state["searchFilter"] == view.EVALUATIONS
    runs = client.search_runs([experiment.experiment_id], state["searchFilter"])
    assert {run.info.run_name for run in runs} == {"scd", "teacher"}


def test_without_an_experiment_the_address_is_that_of_all(settings: TrackingSettings) -> None:
    client = store.connect(settings)
    everything = f"{SERVER}/#/experiments?workflowType=machine_learning"
    assert view.address(client, SERVER, "digits") == everything
    client.delete_experiment(client.create_experiment("digits"))
    assert view.address(client, SERVER, "digits") == everything
