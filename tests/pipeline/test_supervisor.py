"""`scm run` with a stand-in for dvc: exit codes, signals, orphans, GPU shares."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.pipeline import supervisor
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
FAKE_DVC = """#!{python}
import os, pathlib, signal, subprocess, sys, time
record = pathlib.Path("calls.txt").open("a")
gpus, first = os.environ.get("CUDA_VISIBLE_DEVICES", "-"), os.environ["PATH"].split(os.pathsep)[0]
print(" ".join(sys.argv[1:]), gpus, first, file=record, flush=True)
{body}
"""
CHILD = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.3)
    pathlib.Path("saved.txt").write_text(signal.Signals(number).name)
    sys.exit(75)
if sys.argv[1] == "saves":
    [signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
else:
    [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
pathlib.Path("child.txt").write_text("ready")
time.sleep(60)
"""
STARTS_CHILD = """
child = subprocess.Popen([sys.executable, "child.py", "{kind}"])
pathlib.Path("pid.txt").write_text(str(child.pid))
"""
BLOCKS = """
  discrete: {images: 128Ki, dropout: 0.0, points: 64}
  vsd:
    images: 128Ki
    dropout: 0.0
    vsd: {weight: 1.0, p_mean: 0.4, p_std: 2.0}
    fake_score: {lr_max: 1.0e-4, dropout: 0.0, p_mean: -0.8, p_std: 1.6, updates: 1}
"""
WAITS_FOR_CHILD = STARTS_CHILD + "sys.exit(child.wait())"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose environment holds a stand-in dvc."""
    shipped.make_project(tmp_path)
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    for folder in ("bin", ".git"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as the folder of a project holds scm
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return tmp_path


def fake_dvc(project: Path, body: str) -> None:
    path = project / "bin" / "dvc"
    path.write_text(FAKE_DVC.format(python=os.path.realpath(sys.executable), body=body), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(project: Path) -> list[str]:
    """Arguments and CUDA_VISIBLE_DEVICES of each call, checked for the environment's folder at the front of PATH."""
    lines = (project / "calls.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.endswith(f" {project / 'bin'}") for line in lines)
    return [line.rpartition(" ")[0] for line in lines]


def start(project: Path) -> subprocess.Popen:
    """The supervisor in a process of its own, with the environment of `project`; returns when the child is ready."""
    code = f"import sys; sys.executable = {str(project / 'bin' / 'python')!r}; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from pathlib import Path; from scm.pipeline.supervisor import run; sys.exit(run([], root=Path.cwd()))"
    process = subprocess.Popen(
        [os.path.realpath(sys.executable), "-c", code], cwd=project, stderr=subprocess.PIPE, env=child_environment()
    )
    wait_until((project / "child.txt").exists)
    return process


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(project: Path) -> bool:
    """Whether the child runs (a zombie does not)."""
    path = Path("/proc") / (project / "pid.txt").read_text() / "stat"
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("code", [0, 1, 255])
def test_the_exit_code_is_dvcs(project, code):
    fake_dvc(project, f"sys.exit({code})")
    assert supervisor.run(["-s", "evaluate@scd"], root=project) == code
    assert calls(project) == ["repro -s evaluate@scd -"]


@pytest.mark.parametrize(("no_scm", "runs"), [("", False), ("false", False), ("true", True)])
def test_without_a_repository_dvc_has_to_be_told(project, no_scm, runs):
    """The archive of a release, unpacked, holds no .git; dvc would end with 255 and no remedy."""
    (project / ".git").rmdir()
    fake_dvc(project, f"if sys.argv[1] == 'config': print({no_scm!r})")
    if runs:
        assert supervisor.run([], root=project) == 0
        return
    with pytest.raises(UserError, match=r"in no git repository.*: run `git init` there, or `dvc config --local core"):
        supervisor.run([], root=project)


def test_a_folder_that_cannot_be_written_is_said_before_dvc_starts(project, monkeypatch):
    """dvc ends with 255 and offers its support."""
    fake_dvc(project, "")
    (project / ".dvc").mkdir(exist_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != project / ".dvc")
    with pytest.raises(UserError, match=r"\.dvc cannot be written: mount it writable, or change its owner"):
        supervisor.run([], root=project)
    assert not (project / "calls.txt").exists()


def test_braces_in_the_folders_path_are_refused(project):
    """dvc takes them for a format, and ends with an AttributeError."""
    moved = project.rename(project.with_name("a {x}"))
    with pytest.raises(UserError, match=r"whose path has braces: rename .*a \{x\}"):
        supervisor.run([], root=moved)


def test_parameters_are_checked_first(project):
    fake_dvc(project, "")
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: -1", 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        supervisor.run([], root=project)
    assert str(caught.value) == f"{path}: seed = -1: must be at least 0"
    assert not (project / "calls.txt").exists()


def test_dvc_is_missing(project):
    with pytest.raises(UserError) as caught:
        supervisor.run([], root=project)
    remedy = "install the project here: `pip install -e '.[pipeline]'`"
    assert str(caught.value) == f"{project / 'bin' / 'dvc'} is missing: {remedy}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_stage_and_its_end_is_awaited(project, number):
    fake_dvc(project, WAITS_FOR_CHILD.format(kind="saves"))
    process = start(project)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75
    assert (project / "saved.txt").read_text() == number.name
    assert not alive(project)
    assert errors.decode().startswith("stopping; the same command goes on later (once more to kill)\n")


def test_an_interrupted_run_that_was_complete_is_complete(project):
    fake_dvc(
        project,
        'signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\npathlib.Path("child.txt").touch()\ntime.sleep(60)',
    )
    process = start(project)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_second_signal_kills(project):
    fake_dvc(project, WAITS_FOR_CHILD.format(kind="deaf"))
    process = start(project)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None and alive(project)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 75 and not alive(project)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to the supervisor on Linux alone")
def test_a_second_signal_kills_what_has_a_session_of_its_own(project):
    """As the command of a launcher has, for which a stage waits."""
    child = STARTS_CHILD.replace('"{kind}"]', '"deaf"], start_new_session=True')
    body = f"signal.signal(signal.SIGINT, signal.SIG_IGN)\n{child}\ntime.sleep(60)"
    fake_dvc(project, body)
    process = start(project)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=10)
    assert process.returncode == 75 and not alive(project)


def test_what_dvc_leaves_behind_is_ended(project):
    body = (
        STARTS_CHILD.format(kind="saves")
        + 'while not pathlib.Path("child.txt").exists(): time.sleep(0.02)\nsys.exit(3)'
    )
    fake_dvc(project, body)
    assert supervisor.run([], root=project) == 3
    assert (project / "saved.txt").read_text() == "SIGTERM" and not alive(project)


def test_what_ignores_the_request_is_killed(project, monkeypatch):
    monkeypatch.setattr(supervisor, "_GRACE_SECONDS", 0.3)
    body = STARTS_CHILD.format(kind="deaf") + 'while not pathlib.Path("child.txt").exists(): time.sleep(0.02)'
    fake_dvc(project, body)
    assert supervisor.run([], root=project) == 0
    assert not alive(project)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends dvc on Linux alone")
def test_dvc_ends_with_a_killed_supervisor(project):
    fake_dvc(
        project,
        'pathlib.Path("pid.txt").write_text(str(os.getpid()))\npathlib.Path("child.txt").touch()\ntime.sleep(60)',
    )
    process = start(project)
    process.kill()
    process.communicate(timeout=10)
    wait_until(lambda: not alive(project))


def test_the_callers_signal_handlers_come_back(project):
    fake_dvc(project, "")
    before = [signal.getsignal(number) for number in supervisor.STOPS]
    supervisor.run([], root=project)
    assert [signal.getsignal(number) for number in supervisor.STOPS] == before


def test_under_nohup_the_end_of_a_terminal_does_not_stop_the_run(project):
    """nohup has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with supervisor.Sessions(project):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_students_train_in_parallel_on_shares_of_the_gpus(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b,6")
    barrier = """
if "-s" in sys.argv:
    pathlib.Path(sys.argv[-1]).touch()
    deadline = time.monotonic() + 10
    while len(list(pathlib.Path(".").glob("train_student@*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
"""
    fake_dvc(project, barrier)
    assert supervisor.run([], root=project, parallel=True) == 0
    first, *middle, last = calls(project)
    assert first == "repro select_ema@teacher 4,GPU-b,6"
    assert sorted(middle) == ["repro -s train_student@scd 4", "repro -s train_student@sct GPU-b"]
    assert last == "repro 4,GPU-b,6"


def test_parallel_waves_hold_only_students_that_start_from_the_teacher(project, monkeypatch):
    """What starts from another student, however it stands in the list, is left to the last, ordinary repro."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("methods: {scd: teacher, sct: teacher}", "methods: {vsd: scd, scd: teacher, sct: teacher, discrete: teacher}"),
        ("models: [teacher, scd, sct]", "models: [teacher, vsd, scd, sct, discrete]"),
        ("\nema:", f"{BLOCKS}\nema:"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    fake_dvc(project, "")
    assert supervisor.run([], root=project, parallel=True) == 0
    first, *middle, last = calls(project)
    assert (first, last) == ("repro select_ema@teacher 0,1", "repro 0,1")
    trained = [call.split()[2:] for call in middle]
    assert sorted(trained[:2]) == [["train_student@scd", "0"], ["train_student@sct", "1"]]
    assert trained[2:] == [["train_student@discrete", "0"]]


def test_a_failed_student_ends_the_run_after_the_other_one(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    fake_dvc(
        project, 'time.sleep(0.3 * ("train_student@sct" in sys.argv))\nsys.exit(4 * ("train_student@scd" in sys.argv))'
    )
    assert supervisor.run([], root=project, parallel=True) == 4
    assert len(calls(project)) == 3


@pytest.mark.parametrize(
    ("gpus", "edit", "arguments", "reason"),
    [
        ("0", ("", ""), [], "needs two students, a GPU for each and no runtime.launcher"),
        ("0,1,2", ("processes: 1", "processes: 2"), [], "needs two students, a GPU for each and no runtime.launcher"),
        ("0,1", ("device: auto", "device: cpu"), [], "needs two students, a GPU for each and no runtime.launcher"),
        (
            "0,1",
            ("launcher: null", "launcher: srun torchrun"),
            [],
            "needs two students, a GPU for each and no runtime.launcher",
        ),
        ("0,1", ("sct: teacher}", "sct: scd}"), [], "needs two students, a GPU for each and no runtime.launcher"),
        ("0,1", ("", ""), ["report"], "is for the whole pipeline"),
    ],
)
def test_parallel_where_it_cannot_be(project, monkeypatch, capsys, gpus, edit, arguments, reason):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    path = project / "params.yaml"
    text = path.read_text().replace("tangent_warmup: 20Ki", "tangent_warmup: 0")  # as a student's student asks
    path.write_text(text.replace(*edit, 1), encoding="utf-8")
    fake_dvc(project, "")
    assert supervisor.run(arguments, root=project, parallel=True) == 0
    assert calls(project) == [" ".join(["repro", *arguments, gpus])]
    assert capsys.readouterr().err == f"scm run: --parallel {reason}; running one stage at a time\n"


@pytest.mark.parametrize(
    ("named", "found"), [("", []), ("-1", []), ("0", ["0"]), ("2,GPU-a", ["2", "GPU-a"]), (None, ["0", "1"])]
)
def test_visible_gpus(project, monkeypatch, named, found):
    tool = project / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho 'GPU 1: A (UUID: GPU-2)'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(project / "bin") + os.pathsep + os.environ["PATH"])
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert supervisor.visible_gpus() == found
