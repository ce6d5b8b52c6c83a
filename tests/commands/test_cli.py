"""The command `scm`: help, exit codes, messages."""

import argparse
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from scm import __version__, cli
from scm.commands import retrain, sample
from scm.errors import Interrupted, UserError
from scm.params import flatten
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
COMMANDS = [
    [],
    ["params"],
    ["params", "check"],
    ["params", "show"],
    ["preset"],
    ["preset", "list"],
    ["preset", "show"],
    ["preset", "diff"],
    ["preset", "apply"],
    ["plan"],
    ["run"],
    ["sample"],
    ["edit"],
    ["serve"],
    ["card"],
    ["import-teacher"],
    ["init"],
    ["sync"],
    ["publish"],
    ["rollback"],
    ["champion"],
    ["study"],
    ["retrain"],
    ["status"],
    ["completion"],
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, and the current folder somewhere inside it."""
    shipped.make_project(tmp_path)
    (tmp_path / "pipelines" / "presets" / "wide.yaml").write_text(
        "# Wide.\nextends: digits\nnetwork: {width: 64}\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path / "pipelines")
    return tmp_path


def values_in(project: Path) -> int:
    """Leaves of the test's params.yaml."""
    return len(flatten(YAML(typ="safe", pure=True).load(project / "params.yaml")))


@pytest.fixture
def replace_module(monkeypatch):
    """Puts a module with one function in the place of a heavy one."""

    def replace(module, function, action):
        stand_in = types.ModuleType(module)
        setattr(stand_in, function, action)
        monkeypatch.setitem(sys.modules, module, stand_in)

    return replace


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_everywhere_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"\n  {' '.join(['scm', *command])}" in text.partition("examples:")[2]


def test_help_imports_the_standard_library_alone_and_is_quick():
    code = (
        "import sys; before = set(sys.modules)\n"
        "from scm.cli import main\n"
        "try: main(['preset', 'apply', '--help'])\n"
        "except SystemExit: pass\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print('NEW', sorted(new))"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 1
    assert result.stdout.splitlines()[-1] == "NEW ['scm']"


@pytest.mark.parametrize("command", [[], ["params"], ["preset"]], ids=" ".join)
def test_a_group_of_commands_shows_its_help(command, capsys):
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: {' '.join(['scm', *command])} [-h]") and not shown.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sampel", "scm: error: argument COMMAND: invalid choice: 'sampel' (did you mean sample?)"),
        ("xyzzy", "invalid choice: 'xyzzy' (choose from init, params, preset, plan, "),
        ("preset aply digits", "scm preset: error: argument ACTION: invalid choice: 'aply' (did you mean apply?)"),
        ("plan --memry", "scm plan: error: unrecognized arguments: --memry (did you mean --memory?)"),
        ("sync now", "scm sync: error: unrecognized arguments: now\n"),
    ],
)
def test_what_was_probably_meant(command, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_version_names_the_commit(capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = re.fullmatch(r"scm (\S+) \(commit ([0-9a-f]{7,})(, with uncommitted changes)?\)\n", capsys.readouterr().out)
    assert told is not None and told[1] == __version__ and head.startswith(told[2])
    monkeypatch.setenv("PATH", "")
    assert cli.version() == f"scm {__version__}", "without git"


def test_params_check(project, capsys):
    assert cli.main(["params", "check"]) == 0
    assert capsys.readouterr().out == f"{project / 'params.yaml'}: ok ({values_in(project)} values, preset digits)\n"


def test_a_user_error_is_one_line_and_exit_code_1(project, capsys):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: -1", 1), encoding="utf-8")
    assert cli.main(["params", "check"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"scm: error: {path}: seed = -1: must be at least 0\n")


def test_params_show(project, capsys):
    assert cli.main(["params", "show", "teacher.lr"]) == 0
    lines = "teacher.lr.max: 0.01\nteacher.lr.warmup: 10Ki\nteacher.lr.decay: cosine\nteacher.lr.decay_from: 160Ki\n"
    assert capsys.readouterr().out == lines
    assert cli.main(["params", "show"]) == 0
    everything = capsys.readouterr().out.splitlines()
    assert len(everything) == values_in(project)
    assert {"mlflow.uri: null", "data.labels: true", "seed: 0"} < set(everything)
    assert cli.main(["params", "show", "teach"]) == 1
    expected = f"scm: error: {project / 'params.yaml'}: teach: no such key; did you mean teacher? "
    assert capsys.readouterr().err == f"{expected}`scm params show` prints them all\n"
    assert cli.main(["params", "show", "xyzzy"]) == 1
    assert capsys.readouterr().err.endswith("xyzzy: no such key; `scm params show` prints them all\n")


def test_preset_commands(project, capsys):
    assert cli.main(["preset", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in listed[1 : listed.index("")] if line[0] != " "]
    assert names == [
        "cifar3",
        "digits",
        "digits-dit",
        "digits-methods",
        "digits-plain",
        "digits-short",
        "digits-smoke",
        "folder",
        "imagenet512-dit-xl",
        "photos-latent",
        "wide",
    ]
    wide = next(line for line in listed if line.startswith("wide "))
    assert wide.split() == ["wide", "digits", "8x8", "grey", "not", "measured", "scd", "*,", "sct", "*", "Wide."]
    assert any(line.startswith("imagenet64-s ") and " 280.2M " in line for line in listed)
    changes = "preset: digits -> wide\nnetwork.width: 32 -> 64\n"
    assert cli.main(["preset", "diff", "wide"]) == 0
    assert capsys.readouterr().out == changes
    assert cli.main(["preset", "apply", "wide"]) == 0
    assert capsys.readouterr().out == changes
    assert cli.main(["preset", "apply", "wide"]) == 0
    assert capsys.readouterr().out == "no change\n"
    assert cli.main(["preset", "show", "wide"]) == 0
    assert capsys.readouterr().out == "# Wide.\nextends: digits\nnetwork: {width: 64}\n"


def test_a_scaled_preset(project, capsys):
    path = project / "params.yaml"
    before = path.read_text(encoding="utf-8")
    for action in ("diff", "apply"):
        assert cli.main(["preset", action, "wide", "--scale", "0.01"]) == 0
        told = capsys.readouterr()
        assert (
            "teacher.images: 320Ki -> 3264\n" in told.out and "student.common.tangent_warmup: 20Ki -> 205\n" in told.out
        )
        samples = (
            "select.samples = 64: 0.01 of it would be 18, but the 64 features that the distance compares need as many"
        )
        assert f"scm preset: {samples}\n" in told.err
        assert (path.read_text(encoding="utf-8") == before) == (action == "diff")
    assert cli.main(["preset", "apply", "wide", "--scale", "0.01"]) == 0 and capsys.readouterr().out == "no change\n"
    (project / "pipelines/presets/part.yaml").write_text("teacher: {images: 1Ki}\n", encoding="utf-8")
    assert cli.main(["preset", "apply", "part", "--scale", "0.5"]) == 1
    assert "scm: error: preset part: seed: missing; add it" in capsys.readouterr().err
    for factor in ("0", "-1", "nan", "1e7"):
        with pytest.raises(SystemExit):
            cli.main(["preset", "apply", "wide", f"--scale={factor}"])
        assert f"must be between 0.000001 and 1,000,000, such as 0.1, not {factor}" in capsys.readouterr().err


def test_outside_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["preset", "list"]) == 1
    expected = f"{tmp_path} is not inside the project: no dvc.yaml here or above; change to the project's folder"
    assert capsys.readouterr().err == f"scm: error: {expected}\n"


def test_run_passes_on_what_is_not_its_own_in_order(project, replace_module):
    calls = []
    replace_module("scm.pipeline.supervisor", "run", lambda *given, **named: calls.append((*given, named)) or 7)
    assert cli.main(["run", "-s", "evaluate@scd", "--parallel", "--force", "-v"]) == 7
    assert cli.main(["run"]) == 7
    assert calls == [
        (["-s", "evaluate@scd", "--force", "-v"], {"root": project, "parallel": True}),
        ([], {"root": project, "parallel": False}),
    ]


def test_run_ends_with_the_place_of_the_report(project, replace_module, capsys):
    codes = iter([0, 0, 0, 0, 0, 1])
    replace_module("scm.pipeline.supervisor", "run", lambda *_, **__: next(codes))
    assert cli.main(["run"]) == 0 and capsys.readouterr().out == "", "no report is there"
    report = project / "results/report.html"
    report.parent.mkdir()
    report.touch()
    line = f"scm run: the report is {report}\n"
    told = [(cli.main(["run", *more]), capsys.readouterr().out) for more in ([], ["-f", "report"], ["encode"], ["-n"])]
    assert told == [(0, line), (0, line), (0, ""), (0, "")]
    assert (cli.main(["run"]), capsys.readouterr().out) == (1, "")


def test_sample_arguments():
    parser = argparse.ArgumentParser()
    sample.add(parser.add_subparsers())
    command = "sample --model sct --steps 1 --classes 3,7 -n 64 --seed 5 --guidance 1.5 -o out/grid.png --device cpu"
    options, defaults = parser.parse_args(command.split()), parser.parse_args(["sample"])
    assert (options.guidance, defaults.guidance, defaults.steps, defaults.model) == (1.5, None, None, None)
    assert (options.model, options.steps, options.classes, options.count) == ("sct", 1, ["3", "7"], 64)
    assert (options.seed, options.output, options.device) == (5, Path("out/grid.png"), "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: must be at least 1, not 0"),
        (["--classes", "3,"], "argument --classes: must be names or numbers such as 3,7, not '3,'"),
        (["--guidance", "much"], "argument --guidance: invalid float value: 'much'"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_wrong_sample_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_values_of_retrain():
    assert retrain.values_of('teacher.images=1Mi seed=1 "publish.name=a b"') == {
        "teacher.images": "1Mi", "seed": 1, "publish.name": "a b",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"^--params 'seed': must be KEY=VALUE, such as teacher\.images=1Mi$"):
        retrain.values_of("seed")
    with pytest.raises(UserError, match=r"close the quotation$"):
        retrain.values_of("'seed=1")


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("no such thing"), 1, "scm: error: no such thing\n"),
        (Interrupted("saved"), 75, "scm: interrupted: saved\n"),
        (Interrupted(), 75, "scm: interrupted\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(project, replace_module, capsys, raised, code, message):
    def fail(_):
        raise raised

    replace_module("scm.tracking.sync", "sync", fail)
    assert cli.main(["sync"]) == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(project, replace_module):
    replace_module("scm.tracking.sync", "sync", lambda _: [][0])
    with pytest.raises(IndexError):
        cli.main(["sync"])


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m scm.cli preset show digits | true; echo ${{PIPESTATUS[0]}}"
    for _ in range(3):
        result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
        assert (result.stdout, result.stderr) == ("0\n", "")


def test_what_the_gate_quotes_is_printed_without_control_characters(monkeypatch, capsys):
    outcome = SimpleNamespace(title="refused", reasons=["the champion's \x1b[31mtag"], verdict=None)
    monkeypatch.setattr("scm.publishing.publish.publish", lambda *_, **__: outcome)
    monkeypatch.setattr("scm.params.project.Project.open", lambda: None)
    assert cli.main(["publish"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == r"  the champion's \x1b[31mtag"
