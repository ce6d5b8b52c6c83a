"""Kills stages at random moments and at renames, and runs them again: the outputs have the same bytes, no litter stays.

A stage is forked from this process, which has imported torch already, so that a try costs its own work alone.
"""

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import copy_project, edit, finished, locked, remove_outputs, run_stage  # noqa: F401

STAGES = (
    *("prepare", "encode", "reference", "train_teacher", "train_student@scd", "train_student@sct"),
    *("select_ema@teacher", "select_ema@scd", "evaluate@teacher", "evaluate@scd", "report"),
)
TIMES = {
    "seconds",
    "cpu_seconds",
    "started",
    "ended",
    "time",
    "machine",
    "images_per_second",
    "data_wait",
    "commit",
    "dirty",
}
"""Keys of figures that are not a result: they differ between two runs of the same stage."""
KINDS = ("kills at random moments", "kills at renames", "ended before the kill", "tries with identical bytes")
RENAMES = ("replace", "rename", "link")


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory) -> Path:  # noqa: F811
    """The finished project, with trainings that save their state often."""
    folder = copy_project(finished, tmp_path_factory.mktemp("kills") / "project")
    edit(folder, "runtime.log_every", 64)
    edit(folder, "runtime.checkpoint_every", 256)
    edit(folder, "mlflow.enabled", False)
    return folder


@pytest.mark.campaign
def test_whatever_is_killed_ends_with_the_same_bytes(project, table):
    counted = table("kills", "stage", *KINDS, align="l" + "r" * len(KINDS))
    totals: Counter[str] = Counter()
    for number, stage in enumerate(STAGES):
        killed = campaign(project, stage, random.Random(number), moments=6, renames=6)
        counted.add(f"`{stage}`", *killed.values())
        totals.update(killed)
    counted.add("all", *(totals[kind] for kind in KINDS))
    assert totals[KINDS[0]] + totals[KINDS[1]] >= 100


@pytest.mark.long
@pytest.mark.parametrize("stage", ["prepare", "train_student@scd"])
def test_a_few_kills_end_with_the_same_bytes(project, stage):
    campaign(project, stage, random.Random(stage), moments=2, renames=2)


def campaign(project: Path, stage: str, draws: random.Random, moments: int, renames: int) -> dict[str, int]:
    """Kills the stage in `moments` + `renames` tries, one to three times in each; returns what was counted."""
    outputs = locked(project)[stage]
    seconds, of_renames = whole(project, stage, outputs)
    expected, counts = dict(digests(project, outputs)), Counter()
    # Each try begins without outputs and work folder, and ends with a run that nobody kills.
    places = draws.sample(range(of_renames), min(renames, of_renames))
    plans: list[Callable[[], int]] = [
        *(lambda place=place: killed_at_rename(project, stage, place) for place in places),
        *(lambda: killed_after(project, stage, draws.uniform(0.02, 0.95) * seconds) for _ in range(moments)),
    ]
    for number, kill in enumerate(plans):
        clear(project, stage, outputs)
        kind = KINDS[number < len(places)]
        for _ in range(draws.choice((1, 1, 2, 3))):
            counts[kind if kill() else KINDS[2]] += 1
        assert finish(start(project, stage)) == 0, f"{stage} did not go on: {kind}: {log(project)}"
        assert dict(digests(project, outputs)) == expected, f"{stage}: other bytes after try {number}, {kind}"
        assert not list(litter(project)), f"{stage}: {list(litter(project))} stay after try {number}, {kind}"
        counts[KINDS[3]] += 1
    return {kind: counts[kind] for kind in KINDS}


def whole(project: Path, stage: str, outputs: dict) -> tuple[float, int]:
    """Runs the stage undisturbed; returns its seconds and how often it renames or links a file."""
    clear(project, stage, outputs)
    begun = time.monotonic()
    assert finish(start(project, stage, lambda: counting(project / "renames"))) == 0, log(project)
    return time.monotonic() - begun, int((project / "renames").read_text())


def clear(project: Path, stage: str, outputs: dict) -> None:
    remove_outputs(project, outputs)
    shutil.rmtree(project / ".work", ignore_errors=True)


def start(project: Path, stage: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Forks a process that runs the stage; returns its number. Its output goes to the project's file `log`."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setsid()
        out = os.open(project / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        prepare()
        name, _, item = stage.partition("@")
        run_stage(project, f"stages.{name}", *filter(None, [item]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def log(project: Path) -> str:
    return (project / "log").read_text(errors="replace")[-3000:]


def killed_after(project: Path, stage: str, seconds: float) -> bool:
    child = start(project, stage)
    time.sleep(seconds)
    os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, signal.SIGKILL)
    return finish(child) == -signal.SIGKILL


def killed_at_rename(project: Path, stage: str, place: int) -> bool:
    """Kills the stage before (even places) or after its rename number `place`."""
    return finish(start(project, stage, lambda: dying(place))) == -signal.SIGKILL


def dying(place: int) -> None:
    seen = iter(range(10**9))

    def wrap(original: Callable) -> Callable:
        def renamed(*arguments: object, **options: object) -> object:
            here = next(seen) == place
            if here and place % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return renamed

    for name in RENAMES:
        setattr(os, name, wrap(getattr(os, name)))


def counting(file: Path) -> None:
    total = 0

    def wrap(original: Callable) -> Callable:
        def renamed(*arguments: object, **options: object) -> object:
            nonlocal total
            total += 1
            file.write_text(str(total))
            return original(*arguments, **options)

        return renamed

    file.write_text("0")
    for name in RENAMES:
        setattr(os, name, wrap(getattr(os, name)))


def digests(project: Path, outputs: dict) -> Iterator[tuple[str, str]]:
    """Hash of each output file; of figures, without those that are times."""
    for out in outputs["outs"]:
        path = project / out["path"]
        assert path.exists(), f"{path} is missing"
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield str(file.relative_to(project)), hashlib.sha256(content(file)).hexdigest()


def content(file: Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(without_times(json.loads(file.read_text())), sort_keys=True).encode()
    if file.suffix == ".csv":
        return repr([without_times(row) for row in csv.DictReader(file.read_text().splitlines())]).encode()
    if file.parts[-2] == "results":  # the report shows times; that it is there is enough
        return b""
    return file.read_bytes()


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key.partition("@")[0] not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def litter(project: Path) -> Iterator[Path]:
    """Temporaries of killed processes, and work folders."""
    for folder in ("data", "models", "results", ".work"):
        yield from (project / folder).rglob("*.tmp")
