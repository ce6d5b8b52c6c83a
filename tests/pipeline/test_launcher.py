"""`runtime.launcher`: what runs a stage that DVC has started, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scm.cli import main as scm
from scm.errors import UserError
from scm.pipeline import launcher, stage
from tests.support.projects import make_project

RUN = """
import os, sys
from scm.pipeline import launcher
print(launcher.run(sys.argv[1:], os.environ), flush=True)
"""
SAVES = """
trap 'sleep 0.2; echo saved by {name}; exit {code}' {name}
echo ready
while :; do sleep 0.05; done
"""
PROJECT_STAGE = """
from scm.pipeline.stage import main

def run(stage):
    print(stage.full_name, "here", flush=True)

main(run, "train_student", matrix=True, training=True)
"""


def script(folder: Path, text: str) -> str:
    path = folder / "launch.sh"
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def started(*command: str) -> subprocess.Popen[str]:
    # Where the tests were started by nohup, SIGHUP would stay ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", RUN, *command], stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, before)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", launcher.STOPS)
def test_the_first_signal_is_passed_on_and_the_end_awaited(tmp_path, number):
    process = started(script(tmp_path, SAVES.format(name=number.name[3:], code=1)))
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # as from dvc's death
    assert process.communicate(timeout=10)[0] == f"saved by {number.name[3:]}\n75\n"


def test_a_launcher_that_was_complete_is_complete(tmp_path):
    process = started(script(tmp_path, SAVES.format(name="TERM", code=0)))
    process.terminate()
    assert process.communicate(timeout=10)[0] == "saved by TERM\n0\n"


def test_what_a_shell_has_started_is_awaited_though_the_shell_dies(tmp_path):
    """The shell itself has no trap."""
    inner = SAVES.format(name="USR1", code=75).replace("echo saved", "touch saved; echo saved")
    (tmp_path / "inner.sh").write_text(inner, encoding="utf-8")
    process = started(script(tmp_path, f"cd {tmp_path}; sh inner.sh; true"))
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=10)[0] == "saved by USR1\n75\n"


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's death on Linux only")
def test_the_launcher_is_asked_to_end_when_the_stage_is_killed(tmp_path):
    saved = tmp_path / "saved"
    process = started(
        script(tmp_path, SAVES.format(name="TERM", code=0).replace("echo saved by TERM", f"touch {saved}"))
    )
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while not saved.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_exit_codes_are_the_launchers(tmp_path):
    assert launcher.run([script(tmp_path, "exit 75")], os.environ) == 75
    assert launcher.run([script(tmp_path, "exit 3")], os.environ) == 3
    with pytest.raises(UserError, match=r"^launch\.sh was ended by SIGKILL: run the same command again$"):
        launcher.run([script(tmp_path, "kill -9 $$")], os.environ)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, in which DVC starts a stage; its launcher says what it was given."""
    path = make_project(tmp_path)
    place = script(
        tmp_path, 'echo "$@"; env | sort > environment.txt\nmkdir -p results/runs; touch "results/runs/$5@$6.json"'
    )
    text = path.read_text(encoding="utf-8").replace("launcher: null", 'launcher: ./launch.sh "two words" && python')
    path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, value in {"DVC_ROOT": str(tmp_path), "WORLD_SIZE": "1", "PET_NNODES": "1", "MASTER_ADDR": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SCM_STARTED", raising=False)
    monkeypatch.setattr(sys, "argv", ["train_student", "scd"])
    assert Path(place).is_file()
    return tmp_path


def start() -> int:
    return stage._main(lambda _: pytest.fail("it runs here"), "train_student", True, True, False, True)


def test_a_stage_of_dvcs_leaves_its_work_to_the_launcher(project, capfd, monkeypatch):
    monkeypatch.setattr(launcher, "SHARED_DISK_SECONDS", 0.0)
    assert start() == 1  # of its result there is no trace
    out, err = capfd.readouterr()
    assert out == "two words && python -m stages.train_student scd\n"
    path = project / "results/runs/train_student@scd.json"
    problem = f"runtime.launcher ended with code 0, but {path} is not here"
    assert err == f"error: {problem}: it has to wait for the stage, which has to run in this folder, on a shared disk\n"
    given = dict(line.split("=", 1) for line in (project / "environment.txt").read_text().splitlines() if "=" in line)
    assert not {"WORLD_SIZE", "MASTER_ADDR", "PET_NNODES"} & set(given)
    assert given["SCM_LAUNCHED"] == "1" and given["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert given["PET_SIGNALS_TO_HANDLE"] == "SIGINT,SIGTERM,SIGHUP,SIGUSR1,SIGQUIT"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert start() == 0


@pytest.mark.parametrize("variable", ["SCM_LAUNCHED", "DVC_ROOT"])
def test_only_a_stage_that_dvc_has_started_is_launched(project, monkeypatch, variable):
    if variable == "DVC_ROOT":
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(stage, "_start_again", lambda name: None)
    ran = []
    monkeypatch.setattr(stage, "_open", lambda *given: ran.append(given))
    with pytest.raises(AttributeError):  # the stage that was opened is none
        start()
    assert ran


def test_a_launcher_that_is_missing_is_said_by_the_check_and_by_the_stage(project, capsys):
    (project / "launch.sh").unlink()
    given = './launch.sh "two words" && python'
    said = f"runtime.launcher = {given}: there is no program ./launch.sh here; install it, or write null\n"
    assert start() == 1
    assert capsys.readouterr().err == f"error: {said}"
    assert scm(["params", "check"]) == 1
    assert capsys.readouterr().err == f"scm: error: {said}"


def test_the_check_finds_a_launcher_beside_a_file_that_is_named_from_here(project, capsys):
    assert scm(["params", "check", "params.yaml"]) == 0
    assert capsys.readouterr().out.startswith("params.yaml: ok")
