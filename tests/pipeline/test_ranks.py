"""Who numbers this process: torchrun, a cluster's operator, or nobody."""

import os
import sys

import pytest

from scm.errors import UserError
from scm.pipeline import stage
from scm.pipeline.ranks import among_several
from tests.support.projects import make_project

LONE_POD = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "23456", "PET_NNODES": "1"}
PODS = {**LONE_POD, "WORLD_SIZE": "2", "RANK": "1"}
TORCHRUN = {**LONE_POD, "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
OTHERS = {"HOME": "/h", "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_NODEID": "1"}


@pytest.mark.parametrize("environment", [{}, LONE_POD, {"RANK": "0"}, {**TORCHRUN, "DVC_ROOT": "/p"}])
@pytest.mark.parametrize("processes", [1, 8])
def test_a_lone_process_loses_its_number(environment, processes):
    environment = {**environment, **OTHERS}
    kept = {key: value for key, value in environment.items() if key not in {**LONE_POD, "LOCAL_RANK": ""}}
    assert not among_several(environment, processes)
    assert environment == kept


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        (TORCHRUN, 8),
        ({**TORCHRUN, "WORLD_SIZE": "16", "RANK": "15"}, 8),
        (PODS, 1),
        ({**TORCHRUN, "WORLD_SIZE": "8", "SCM_STARTED": "1", "DVC_ROOT": "/p"}, 8),
    ],
)
def test_one_of_several_keeps_its_number(environment, processes):
    before = dict(environment)
    assert among_several(environment, processes)
    assert environment == before


@pytest.mark.parametrize(
    ("environment", "processes", "fault"),
    [
        ({"RANK": "1"}, 1, "RANK = 1 and WORLD_SIZE = 1 contradict each other: start it with torchrun, or unset them"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, 1, "contradict each other"),
        ({"WORLD_SIZE": "0"}, 1, "contradict each other"),
        ({"RANK": "9" * 5000}, 1, "9999 in the environment is no whole number"),
        ({**PODS, "LOCAL_RANK": "a"}, 1, "LOCAL_RANK = a in the environment is no whole number"),
        ({**PODS, "LOCAL_WORLD_SIZE": "0"}, 1, "LOCAL_RANK = 0, LOCAL_WORLD_SIZE = 0, RANK = 1 and WORLD_SIZE = 2"),
        ({**PODS, "LOCAL_WORLD_SIZE": "8"}, 1, "contradict each other"),
        ({"RANK": "-1"}, 1, "RANK = -1 in the environment is no whole number"),
        ({"WORLD_SIZE": ""}, 1, "WORLD_SIZE =  in the environment is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, 1, "are set without MASTER_ADDR and MASTER_PORT, and not by torchrun"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a"}, 1, "are set without MASTER_PORT"),
        (PODS, 8, "stand for one process each, while runtime.processes = 8: start it with torchrun, or write 1"),
        ({"PET_NNODES": "2"}, 1, "PET_NNODES = 2 is meant for torchrun, which did not start this"),
        ({**PODS, "DVC_ROOT": "/p"}, 1, "one of 2 processes, but DVC runs a stage only once: unset them"),
        ({**TORCHRUN, "WORLD_SIZE": "2", "DVC_ROOT": "/p"}, 1, "but DVC runs a stage only once"),
    ],
)
def test_variables_that_cannot_be_meant_are_named(environment, processes, fault):
    with pytest.raises(UserError, match=fault.replace(".", r"\.")):
        among_several(dict(environment), processes)


@pytest.fixture
def environment(monkeypatch):
    """An empty environment of this process."""
    monkeypatch.setattr(os, "environ", {})
    return os.environ


@pytest.mark.parametrize("variables", [{}, LONE_POD, {**LONE_POD, **OTHERS}])
def test_runtime_processes_counts_in_a_lone_pod(variables, environment, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(sys, "argv", ["train_student", "scd"])
    environment |= variables
    stage._start_processes("train_student", 8)
    (_, command, given), *_ = started
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8"]
    assert command[1:] == [*torchrun, "-m", "stages.train_student", "scd"]
    assert not set(LONE_POD) & set(given) and given["SCM_STARTED"] == "1"


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"WORLD_SIZE": "2", "RANK": "1"}])
@pytest.mark.parametrize("training", [True, False])
def test_a_stage_does_not_end_silently_as_somebody_elses_process(
    variables, training, environment, tmp_path, monkeypatch, capsys
):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare"])
    environment |= variables
    assert stage._main(lambda _: pytest.fail("it runs"), "prepare", False, training, False, True) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: RANK = 1 and WORLD_SIZE = ") and said.count("\n") == 1
