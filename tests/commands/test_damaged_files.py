"""Every file that a command reads back, under every damage: one line that names the file, and never a traceback.

A damage of a whole file has to be refused. One key may be damaged if the command does not need it.
"""

import contextlib
import io
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scm import cli
from scm.errors import UserError
from scm.params.project import Project
from scm.product.content import Content
from scm.product.packaging import content_of
from scm.tracking import sync
from stages.report import build
from tests.support import broken_documents
from tests.support.fake_candidate import make_candidates, write_candidate
from tests.support.fake_results import write_fake_results
from tests.support.models import save_model
from tests.support.projects import make_project

ROOT = Path(__file__).parents[2]
DAMAGES = {
    ".json": broken_documents.of_json,
    ".yaml": broken_documents.of_yaml,
    ".lock": broken_documents.of_yaml,
    ".csv": broken_documents.of_csv,
}
COMMANDS: dict[str, Callable[[], object]] = {
    "params check": lambda: cli.main(["params", "check"]),
    "params show": lambda: cli.main(["params", "show", "seed"]),
    "preset list": lambda: cli.main(["preset", "list"]),
    "preset show": lambda: cli.main(["preset", "show", "digits"]),
    "preset diff": lambda: cli.main(["preset", "diff", "digits"]),
    "study": lambda: cli.main(["study"]),
    "study parts": lambda: cli.main(["study", "parts", "--draw"]),
    "plan": lambda: cli.main(["plan"]),
    "run": lambda: cli.main(["run", "prepare"]),
    "retrain plan": lambda: cli.main(["retrain", "plan"]),
    "sample": lambda: cli.main(["sample", "--model", "scd", "-n", "1", "--device", "cpu", "-o", "made.png"]),
    "card": lambda: cli.main(["card", "scd"]),
    "publish": lambda: cli.main(["publish"]),
    "report": lambda: build(Project.open()),
    "sync": lambda: [sync.record_of(Path(), path) for path in sorted(Path("results/runs").glob("*.json"))],
    "serve": lambda: content_of(Project.open(), "scd"),
    "a package": lambda: Content.read(Path("package")),
}
"""What users start; the last ones by the function behind a command or a stage, up to where a store or server begins."""
READ = {
    "params.yaml": ("params check", "params show", "preset diff", "plan", "run", "retrain plan", "card"),
    "dvc.yaml": ("plan", "run", "retrain plan"),
    "dvc.lock": ("plan", "run", "retrain plan"),
    "pipelines/presets/digits.yaml": ("preset list", "preset diff"),
    "pipelines/studies/parts.yaml": ("study parts",),
    "pipelines/paper_tables.yaml": ("preset list", "report"),
    "results/runs/train_teacher.json": ("report", "sync", "card", "sample"),
    "results/runs/select_ema@scd.json": ("report", "sync", "sample", "card", "serve"),
    "results/runs/evaluate@scd.json": ("report", "sync", "card"),
    "results/metrics/reference.json": ("report", "sync"),
    "results/metrics/select-scd.json": ("report", "sync"),
    "results/metrics/evaluate-scd.json": ("report", "sync", "card"),
    "results/curves/train-scd.csv": ("report", "sync"),
    "results/curves/select-scd.csv": ("report", "sync"),
    "results/curves/by-time-scd.csv": ("report",),
    "results/samples/prepare/data.json": ("report", "card"),
    "data/codec/header.json": ("card", "sample", "serve"),
    "models/scd/sampling.json": ("card", "sample", "serve"),
    "models/scd/model.safetensors": ("card", "sample", "serve"),
    "package/settings.json": ("a package",),
}
CANDIDATE = ("dvc.yaml", "dvc.lock", "results/runs/evaluate@scd.json", "results/metrics/evaluate-scd.json")
LATER = {
    *(("publish", f"fd@1: {name}") for name in ("digits", "NaN", "infinity", "1e999")),
    *((command, f"header: {key} {value}") for command in ("card", "serve") for key, value in broken_documents.NETWORK),
    ("sample", "2 missing"),
}
"""What others refuse: the gate figures that are not finite (tests/publishing/test_gate.py), whoever loads the weights
settings that are not theirs, and a model without a choice for two steps to take two."""
PARTIAL = ("missing", " null", " text", " a list", " of another type", " -1")
"""Ends of the names of damages that concern one key."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "project"
    root.mkdir()
    make_project(root)
    for number, name in enumerate(("teacher", "scd", "sct")):
        save_model(root, name, number, **({} if name == "teacher" else {"t_mid": 0.8}))
    write_fake_results(root, rows=3)
    shutil.copy(ROOT / "dvc.yaml", root)
    lock = {"schema": "2.0", "stages": {"prepare": {"cmd": "x", "outs": [{"path": "data/shards", "md5": "abc.dir"}]}}}
    (root / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")
    (root / "package").mkdir()
    content_of(Project.open(root), "scd")[0].write(root / "package")
    return root


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "candidate"
    root.mkdir()
    make_candidates(root)
    write_candidate(root)
    return root


def answer(command: str) -> tuple[int, str, str]:
    """Exit code, standard output and error output of a command in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = COMMANDS[command]()
        except UserError as error:
            err.write(f"error: {error}\n")
            code = 1
    return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()


def damages(path: Path) -> Iterator[tuple[str, bytes | str]]:
    if path.suffix == ".safetensors":
        return broken_documents.of_weights(path.read_bytes())
    return DAMAGES[path.suffix](path.read_text(encoding="utf-8"))


def wrong_answers(path: Path, command: str, most: int | None) -> Iterator[str]:
    """Each damage that the command does not refuse in one line with the file's name.

    Args:
        most: damages that are tried, spread evenly; other pairs of file and command try others. None = all.
    """
    tried = list(damages(path))
    if most is not None:
        step = max(1, len(tried) // most)
        tried = tried[zlib.crc32(f"{path.name} {command}".encode()) % step :: step]
    for name, content in tried:
        with broken_documents.put(path, content):
            try:
                code, _, said = answer(command)
            except Exception as error:
                yield f"{name}: {type(error).__name__}: {error}"
                continue
        lines = [line for line in said.splitlines() if "error" in line]
        if (command, name) in LATER:
            continue
        if code == 0 and not name.endswith(PARTIAL):
            yield f"{name}: accepted"
        elif code and (len(lines) != 1 or (path.name not in said and path.stem not in said)):
            yield f"{name}: {said}"


@pytest.mark.parametrize("most", [pytest.param(4, id="some"), pytest.param(None, id="all", marks=pytest.mark.campaign)])
@pytest.mark.parametrize(("file", "command"), [(file, command) for file, all_of in READ.items() for command in all_of])
def test_a_damaged_file_is_refused_in_one_line(
    project: Path, file: str, command: str, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    found = list(wrong_answers(project / file, command, most))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("most", [pytest.param(4, id="some"), pytest.param(None, id="all", marks=pytest.mark.campaign)])
@pytest.mark.parametrize("file", CANDIDATE)
def test_no_candidate_comes_from_a_damaged_file(
    candidate: Path, file: str, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(candidate)
    monkeypatch.setattr("scm.publishing.publish.answered", lambda *_: None)
    found = list(wrong_answers(candidate / file, "publish", most))
    assert not found, "\n".join(found)
