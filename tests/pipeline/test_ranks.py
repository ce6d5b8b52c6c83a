"""Who numbers this process: torchrun, a cluster's operator, or nobody."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from scm.errors import UserError
from scm.pipeline import stage
from scm.pipeline.ranks import among_several, end_after_another, tell_torchrun
from tests.support.projects import make_project

LONE_POD = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "23456", "PET_NNODES": "1"}
PODS = {**LONE_POD, "WORLD_SIZE": "2", "RANK": "1"}
TORCHRUN = {**LONE_POD, "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
OTHERS = {"HOME": "/h", "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_NODEID": "1"}


@pytest.mark.parametrize("environment", [{}, LONE_POD, {"RANK": "0"}, {**TORCHRUN, "DVC_ROOT": "/p"}])
def test_a_lone_process_loses_its_number(environment):
    environment = {**environment, **OTHERS}
    kept = {key: value for key, value in environment.items() if key not in TORCHRUN}
    assert not among_several(environment)
    assert environment == kept


@pytest.mark.parametrize(
    "environment",
    [
        TORCHRUN,
        {**TORCHRUN, "WORLD_SIZE": "16", "RANK": "15"},
        {**TORCHRUN, "WORLD_SIZE": "8", "SCM_STARTED": "1", "DVC_ROOT": "/p"},
        {**TORCHRUN, "WORLD_SIZE": "8", "SCM_LAUNCHED": "1", "DVC_ROOT": "/p"},
        {**TORCHRUN, "SCM_LAUNCHED": "1", "DVC_ROOT": "/p"},
    ],
)
def test_one_of_several_keeps_its_number(environment):
    before = dict(environment)
    assert among_several(environment)
    assert environment == before


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"RANK": "1"}, "RANK = 1 and WORLD_SIZE = 1 contradict each other: start it with torchrun, or unset them"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "contradict each other"),
        ({"WORLD_SIZE": "0"}, "contradict each other"),
        ({"RANK": "9" * 5000}, "9999 in the environment is no whole number"),
        ({**PODS, "LOCAL_RANK": "a"}, "LOCAL_RANK = a in the environment is no whole number"),
        ({**PODS, "LOCAL_WORLD_SIZE": "0"}, "LOCAL_RANK = 0, LOCAL_WORLD_SIZE = 0, RANK = 1 and WORLD_SIZE = 2"),
        ({**PODS, "LOCAL_WORLD_SIZE": "8"}, "contradict each other"),
        ({"RANK": "-1"}, "RANK = -1 in the environment is no whole number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE =  in the environment is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "RANK = 1 and WORLD_SIZE = 2 are set, but not by torchrun: start it with"),
        (PODS, "RANK = 1 and WORLD_SIZE = 2 are set, but not by torchrun: start it with torchrun, or unset them"),
        ({"PET_NNODES": "2"}, "PET_NNODES = 2 is meant for torchrun, which did not start this"),
        ({**PODS, "DVC_ROOT": "/p"}, "one of 2 processes, but DVC runs a stage only once: unset them"),
        ({**TORCHRUN, "WORLD_SIZE": "2", "DVC_ROOT": "/p"}, "only once: unset them, and set runtime.launcher"),
    ],
)
def test_variables_that_cannot_be_meant_are_named(environment, fault):
    with pytest.raises(UserError, match=fault.replace(".", r"\.")):
        among_several(dict(environment))


@pytest.fixture
def environment(monkeypatch):
    """An empty environment of this process."""
    monkeypatch.setattr(os, "environ", {})
    return os.environ


@pytest.mark.parametrize("variables", [{}, LONE_POD, {**LONE_POD, **OTHERS}])
def test_runtime_processes_counts_in_a_lone_pod(variables, environment, monkeypatch):
    started = []
    monkeypatch.setattr(stage.launcher, "run", lambda *call: started.append(call) or 75)
    monkeypatch.setattr(sys, "argv", ["train_student", "scd"])
    environment |= variables
    assert stage._start_processes("train_student", 8) == 75
    (_, *command), given = started[0]
    torchrun = ["-m", "scm.pipeline.torchrun", "--standalone", "--nproc-per-node=8"]
    assert command == [*torchrun, "-m", "stages.train_student", "scd"]
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


BY_GLOO = "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:7563. Check the logs"
BY_NCCL = """NCCL error in: ProcessGroupNCCL.cpp, remote process exited or there was a network error
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."""


@pytest.mark.parametrize("said", [BY_GLOO, BY_NCCL, BY_GLOO.replace("closed", "reset")])
def test_a_process_ends_in_one_line_after_another(said, environment, monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    environment |= {"WORLD_SIZE": "2", "RANK": "1"}
    end_after_another(RuntimeError(said))
    line = "error: rank 1 ends: another process has ended, as it explains, or cannot be reached\n"
    assert codes == [1] and capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("world", "said"), [("1", BY_GLOO), ("2", "mat1 and mat2 shapes cannot be multiplied"), ("2", "Broken pipe")]
)
def test_other_errors_keep_their_traceback(world, said, environment, monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("it ends"))
    environment |= {"WORLD_SIZE": world, "RANK": "0"}
    end_after_another(RuntimeError(said))
    assert not capsys.readouterr().err


FAILING = """
import signal, sys, time
from scm.base.distributed import Ranks
from scm.errors import UserError
from scm.pipeline import stage
from scm.results.fingerprint import Inputs

def opened(project, name, item):
    signal.signal(signal.SIGTERM, lambda *_: None)  # as a training does, which asks at the end of a step
    return stage.Stage(name, item, project, Inputs({}, {}, "0" * 64), project.root / ".work")

def run(_):
    ranks = Ranks.apart("cpu")
    if ranks.rank == 0 or when == "late":
        ranks = Ranks.join("cpu")
        ranks.wait()
    if ranks.rank == 1:
        time.sleep(1)
        raise UserError("data/latents is damaged")
    ranks.wait()

when, stage._open = sys.argv.pop(1), opened
stage.main(run, "reference", parallel=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["early", "late"])
def test_one_of_two_processes_that_fails_says_why_and_no_other_prints_a_stack(when, tmp_path):
    """The process ends before it joins the group, or while the other one waits for it."""
    make_project(tmp_path)
    (tmp_path / "worker.py").write_text(FAILING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "worker.py", when]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    own, _, by_torchrun = done.stderr.partition("Traceback")
    lines = [line for line in own.splitlines() if line.startswith("error: ")]
    others = ["error: rank 0 ends: another process has ended, as it explains, or cannot be reached"]
    assert lines == ["error: data/latents is damaged", *(others if when == "late" else [])], done.stderr
    assert done.returncode == 1 and "Traceback" not in by_torchrun and "SIGKILL" not in by_torchrun
    assert by_torchrun.splitlines()[-2].strip() == "traceback : error: data/latents is damaged"


def test_torchrun_gets_the_line_where_it_asks_for_it(environment, tmp_path):
    tell_torchrun("error: a")
    environment["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / "none" / "error.json")
    tell_torchrun("error: a")
    environment["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / "error.json")
    tell_torchrun("error: a")
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "error: a"


def test_torchrun_takes_the_process_that_failed_for_the_first(environment, tmp_path, monkeypatch):
    """It shows the first by whole seconds, and of equal ones that of the lowest rank."""
    monkeypatch.setattr(os, "_exit", lambda code: None)
    monkeypatch.setattr(time, "time", lambda: 1000.9)
    environment |= {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_ERROR_FILE": str(tmp_path / "0")}
    end_after_another(RuntimeError(BY_GLOO))
    environment |= {"RANK": "1", "TORCHELASTIC_ERROR_FILE": str(tmp_path / "1")}
    tell_torchrun("error: data/latents is damaged")
    failures = {rank: ProcessFailure(rank, 7, 1, str(tmp_path / str(rank))) for rank in (0, 1)}
    rank, failure = ChildFailedError("worker", failures).get_first_failure()
    assert (rank, failure.error_file_data["message"]["message"]) == (1, "error: data/latents is damaged")
