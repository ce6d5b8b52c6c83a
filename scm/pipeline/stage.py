"""What every DVC stage has around its own work: parameters, work folder, signals, records, figures and exit codes.

Exit codes: 0 only when the outputs are complete; 1 for bad input (one line); 75 for work that was interrupted, saved
its state and goes on with the same command. DVC does not look after its children, so a stage dies with its parent, and
takes a lock on its work folder, so that no second trainer ever works on the same files.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scm.base.files import write_json
from scm.base.project import find_root
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params import Params, dump, load
from scm.results.fingerprint import Inputs, inputs_of
from scm.results.provenance import chain, commit_of, machine_name, params_hash
from scm.results.reading import run_path
from scm.tracking.records import RunRecord, Settings

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Keeps freed memory in the process; a training step on the CPU otherwise spends much of its time on page faults."""


@dataclass
class Stage:
    """A running stage.

    Attributes:
        name: e.g. train_student.
        item: matrix item, e.g. scd.
        root: the project's folder.
        params: params.yaml.
        inputs: fingerprint and what it follows from.
        work: folder of unfinished work, kept when the stage is interrupted.
        extra: further entries of the run file (device, protocol).
    """

    name: str
    item: str | None
    root: Path
    params: Params
    inputs: Inputs
    work: Path
    extra: dict[str, Any] = field(default_factory=lambda: {"device": "cpu"})
    started: float = field(default_factory=time.time)
    _stop: bool = False

    @property
    def full_name(self) -> str:
        return self.name if self.item is None else f"{self.name}@{self.item}"

    def progress(self, text: str) -> None:
        """Prints a line; of several processes the first one does."""
        if _is_first():
            print(f"[{self.full_name}] {text}", flush=True)

    def stopping(self) -> bool:
        """True once the stage was asked to end by a signal."""
        return self._stop

    def metrics(self, name: str, figures: Mapping[str, float]) -> None:
        """Writes results/metrics/<name>.json."""
        write_json(self.root / "results" / "metrics" / f"{name}.json", dict(figures))

    @contextmanager
    def shown_live(self, metrics_jsonl: Path) -> Iterator[None]:
        """Ships the lines of a growing metrics.jsonl to MLflow while the block runs."""
        from scm.tracking.live import Live

        if not _is_first():
            yield
            return
        settings = Settings.of(self.params, self.root)
        tags = {"scm.preset": self.params.preset}
        record = RunRecord(
            self.inputs.key, self._run_name(), self.name, self.item, self._run_params(), tags, started=self.started
        )
        with Live(record, settings, metrics_jsonl):
            yield

    def _run_name(self) -> str:
        return f"{self.full_name} · {self.params.preset} · seed {self.params.seed}"

    def _run_params(self) -> dict[str, Any]:
        own = {"stage": self.name} | ({} if self.item is None else {"model": self.item})
        return {**self.inputs.params, **own}

    def finish(self) -> None:
        """Writes the run file and shows the finished run in MLflow."""
        from scm.tracking.sending import publish
        from scm.tracking.sync import record_of

        ended, (commit, dirty) = time.time(), commit_of(self.root)
        path = run_path(self.root, self.full_name)
        run = {
            "key": self.inputs.key,
            "stage": self.name,
            "item": self.item,
            "name": self._run_name(),
            "preset": self.params.preset,
            "seed": self.params.seed,
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(),
            "ended": datetime.fromtimestamp(ended, UTC).isoformat(),
            "seconds": round(ended - self.started, 1),
            "machine": machine_name(),
            "commit": commit,
            "dirty": dirty,
            "params_hash": params_hash(self.params),
            "params": self.inputs.params,
            "deps": self.inputs.dependencies,
            "chain": chain(self.root, self.params, self.item),
            **self.extra,
        }
        write_json(path, run)
        publish(record_of(self.root, path), Settings.of(self.params, self.root))


def main(
    run: Callable[[Stage], None],
    name: str,
    *,
    matrix: bool = False,
    training: bool = False,
    parallel: bool = False,
    recorded: bool = True,
) -> None:
    """Entry point of stages/<name>.py: runs `run(stage)` and ends the process with the right exit code.

    Args:
        matrix: the stage takes its matrix item as the only argument.
        training: the stage is started as `runtime.processes` processes with settings that make training fast.
        parallel: the stage is started as `runtime.processes` processes where these are several.
        recorded: the stage leaves a run file and shows in MLflow; the report, which reads the run files, does not.
    """
    sys.exit(_main(run, name, matrix, training, parallel, recorded))


def _main(run: Callable[[Stage], None], name: str, matrix: bool, training: bool, parallel: bool, recorded: bool) -> int:
    try:
        if len(sys.argv) != 1 + matrix:
            raise UserError(f"usage: python -m stages.{name}{' MODEL' if matrix else ''}")
        _die_with_parent()
        root = find_root()
        params = load(root / "params.yaml")
        if training or (parallel and params.runtime.processes > 1):
            _start_processes(name, params.runtime.processes)
        stage = _open(root, name, sys.argv[1] if matrix else None, params)
        with _locked(stage):
            run(stage)
            if _is_first():
                if recorded:
                    stage.finish()
                _remove(stage.work)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:  # of a stage that does not train: what it has kept is in its work folder
        print("interrupted: run the same command to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _open(root: Path, name: str, item: str | None, params: Params) -> Stage:
    """Makes the stage; one that resumes ends at the next step or image when it is asked to by a signal."""
    if item is not None and item not in params.evaluate.models:
        raise UserError(f"params.yaml has no model {item}: use one of {', '.join(params.evaluate.models)}")
    inputs = inputs_of(root, name, item, dump(params))
    work_root = Path(os.environ.get("SCM_WORK") or Path(os.environ.get("DVC_ROOT") or root) / ".work")
    folder = work_root / (name if item is None else f"{name}@{item}") / inputs.key[:16]
    stage = Stage(name, item, root, params, inputs, folder)

    def stop(number: int, frame: Any) -> None:
        stage._stop = True

    if name.startswith(("train", "prepare")):
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    return stage


def _die_with_parent() -> None:
    """Under DVC, ends this process (and what it becomes by exec) when its parent dies. Linux only."""
    if "DVC_ROOT" in os.environ and sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)


@contextmanager
def _locked(stage: Stage) -> Iterator[None]:
    """Holds the work folder for this process alone."""
    if not _is_first():
        yield
        return
    stage.work.mkdir(parents=True, exist_ok=True)
    with (stage.work / "lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            other = handle.read().strip()
            raise UserError(
                f"{stage.full_name} is already running (process {other}) on {stage.work}: wait for it or end it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _remove(work: Path) -> None:
    """Removes the work, which the outputs hold now; by a rename first, so that no half of it is ever resumed."""
    finished = work.with_name(f"{work.name}.finished")
    shutil.rmtree(finished, ignore_errors=True)
    work.rename(finished)
    shutil.rmtree(finished, ignore_errors=True)


def _start_processes(name: str, processes: int) -> None:
    """Replaces this process, once, by one with MALLOC in its environment, or by torchrun with several of them."""
    if "SCM_STARTED" in os.environ or "WORLD_SIZE" in os.environ:
        return
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", f"stages.{name}", *sys.argv[1:]]
    environment = {**MALLOC, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ, "SCM_STARTED": "1"}
    os.execve(sys.executable, command, environment)
