"""What every DVC stage needs around its own work: parameters, work folder, signals, records, figures and exit codes.

A stage exits with 0 only if its outputs are complete, with 1 for bad input (one line), and with 75 if it was
interrupted and has saved its state: the same command resumes it. DVC leaves its children running when it is killed. So
a stage dies with its parent, and locks its work folder so that no second trainer works on the same files. The one that
DVC has started leaves the work to others if params.yaml names a launcher or several processes, and waits for them.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scm.base import locks
from scm.base.files import disk_fault, write_json, write_text
from scm.base.processes import end_with_parent, on_stop
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError, printable
from scm.params import Params, dump
from scm.params.project import Project
from scm.pipeline import launcher
from scm.pipeline.clone import link_images
from scm.pipeline.naming import run_name
from scm.pipeline.ranks import among_several, end_after_another, tell_torchrun
from scm.results.fingerprint import Inputs, inputs_of
from scm.results.provenance import chain, git_fault, run_entry
from scm.results.reading import first_sight, metrics_path, run_path
from scm.tracking.courier import CARRIED
from scm.tracking.records import RunRecord

if TYPE_CHECKING:
    from scm.training.watch import Watch

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
}  # fmt: skip
"""Keeps freed memory in the process; a training step on the CPU otherwise spends much of its time on page faults."""

DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS asks for before its sums are always added in the same order."""

FINISHED = ".finished"
"""Ending of a work folder that is being removed."""


@dataclass
class Stage:
    """A running stage."""

    name: str  # e.g. train_student
    item: str | None  # matrix item, e.g. scd
    project: Project
    inputs: Inputs  # fingerprint, and the parameters and files that it follows from
    work: Path  # folder of unfinished work, kept if the stage is interrupted
    extra: dict[str, Any] = field(default_factory=lambda: {"device": "cpu"})  # further entries of the run file
    started: float = field(default_factory=time.time)
    watch: "Watch | None" = None  # shows a training on a page; the first process of a training has one
    _stop: bool = False

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def params(self) -> Params:
        return self.project.params

    @property
    def full_name(self) -> str:
        return self.name if self.item is None else f"{self.name}@{self.item}"

    def progress(self, text: str) -> None:
        """Prints a line, in the first process only."""
        if _is_first():
            print(printable(f"[{self.full_name}] {text}"), flush=True)

    def stopping(self) -> bool:
        """True once a signal has asked the stage to end."""
        return self._stop

    def figures(self, found: Mapping[str, float]) -> None:
        """Records the stage's figures in its run file, and those of an evaluation that DVC shows in a metrics file."""
        self.extra["figures"] = dict(found)
        if self.name == "evaluate":
            # By the model's name, which makes the names of DVC's columns short and different: scd.fd@2.
            shown = {self.item: first_sight(found)}
            text = json.dumps(shown, indent=2, allow_nan=False)  # in this order, which is that of DVC's columns
            write_text(metrics_path(self.root, self.name, self.item), f"{text}\n")

    @contextmanager
    def shown_live(self, metrics_jsonl: Path) -> Iterator[None]:
        """Sends the lines of a growing metrics.jsonl to MLflow while the block runs."""
        from scm.tracking.live import Live

        if not _is_first():
            yield
            return
        key, tags = self.inputs.key, {"scm.preset": self.params.preset}
        params = {**self.inputs.params, "stage": self.name} | ({} if self.item is None else {"model": self.item})
        record = RunRecord(key, self._run_name(), self.name, self.item, params, tags, started=self.started)
        with Live(record, self.project.tracking, metrics_jsonl):
            yield

    def _run_name(self) -> str:
        return run_name(self.project, self.name, self.item, self.inputs.params)

    def finish(self) -> None:
        """Writes the run file and, unless the courier of `scm run` does it, shows the finished run in MLflow."""
        path = run_path(self.root, self.full_name)
        entry = run_entry(
            self.project, key=self.inputs.key, stage=self.name, item=self.item, name=self._run_name(),
            started=self.started, params=self.inputs.params, deps=self.inputs.dependencies,
            chain=chain(self.project, self.item), **self.extra,
        )  # fmt: skip
        write_json(path, entry)
        if CARRIED not in os.environ:
            from scm.tracking.sending import publish
            from scm.tracking.sync import record_of

            publish(record_of(self.root, path), self.project.tracking)


def main(
    run: Callable[[Stage], None], name: str, *, matrix: bool = False, training: bool = False, parallel: bool = False,
    recorded: bool = True,
) -> None:  # fmt: skip
    """Entry point of stages/<name>.py: runs `run(stage)` and exits with the right code.

    Args:
        matrix: the stage takes its matrix item as the only argument.
        training: start the stage as `runtime.processes` processes, with settings that make training fast.
        parallel: start the stage as `runtime.processes` processes if that is more than one.
        recorded: write a run file and show it in MLflow, and leave the work to `runtime.launcher`; not for the
            report, which reads the run files.
    """
    sys.exit(_main(run, name, matrix, training, parallel, recorded))


def _main(run: Callable[[Stage], None], name: str, matrix: bool, training: bool, parallel: bool, recorded: bool) -> int:
    try:
        if len(sys.argv) != 1 + matrix:
            raise UserError(f"usage: python -m stages.{name}{' MODEL' if matrix else ''}")
        # Report a faulty params.yaml before torch is imported and torchrun starts.
        project = Project.open()
        code = _done_by_others(project, name, training, parallel, recorded)
        if code is not None:
            return code
        os.environ.update({**DETERMINISTIC, **os.environ})
        stage = _open(project, name, sys.argv[1] if matrix else None)
        with _locked(stage):
            with _watched(stage) if training and _is_first() else nullcontext():
                run(stage)
            if _is_first():
                if recorded:
                    stage.finish()
                _remove(stage.work)
        return 0
    except (UserError, OSError) as error:
        line = disk_fault(error) if isinstance(error, OSError) else str(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        tell_torchrun(f"error: {line}")
        return 1
    except RuntimeError as error:
        end_after_another(error)
        raise
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:  # a stage that does not train has kept its finished parts in its work folder
        print("interrupted: run the same command to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _open(project: Project, name: str, item: str | None) -> Stage:
    """Makes the stage; a signal asks one that can resume to end at its next step or image."""
    root, params = project.root, project.params
    if item is not None and item not in params.evaluate.models:
        raise UserError(f"params.yaml has no model {item}: use one of {', '.join(params.evaluate.models)}")
    original = Path(os.environ.get("DVC_ROOT") or root)  # another folder in a copy that `dvc exp run --temp` makes
    if name == "prepare" and original.resolve() != root.resolve():
        link_images(original, root, params.data.path)  # DVC hashes them when the stage has run
    work_root = Path(os.environ.get("SCM_WORK") or original / ".work")
    inputs = inputs_of(root, name, item, dump(params), work_root / "hashes")
    folder = work_root / (name if item is None else f"{name}@{item}") / inputs.key[:16]
    stage = Stage(name, item, project, inputs, folder)
    if _is_first() and (fault := git_fault(root)):
        print(f"[{stage.full_name}] the commit will not be recorded: {printable(fault)}", file=sys.stderr)

    def stop(number: int, frame: Any) -> None:
        stage._stop = True

    if name.startswith(("train", "prepare")):
        on_stop(stop)
    return stage


@contextmanager
def _locked(stage: Stage) -> Iterator[None]:
    """Reserves the work folder for this run of the stage; only its first process takes the lock.

    A killed run of this or another fingerprint may have left folders that it was removing.
    """
    with ExitStack() as stack:
        if _is_first():
            try:
                stack.enter_context(locks.held(stage.work / "lock", wait=False))
            except locks.Taken as taken:
                where = f"(process {taken.holder}) on {stage.work}"
                raise UserError(f"{stage.full_name} is already running {where}: wait for it or end it") from None
            for finished in stage.work.parent.glob(f"*{FINISHED}"):
                shutil.rmtree(finished, ignore_errors=True)
        yield


@contextmanager
def _watched(stage: Stage) -> Iterator[None]:
    """Shows a training on results/progress.html while the block runs."""
    from scm.base.project import TEACHER
    from scm.report.progress import ProgressPage

    model, key = stage.item or TEACHER, stage.inputs.key
    with ProgressPage(stage.params, stage.root, stage.work, model, key, stage.progress) as stage.watch:
        yield


def _remove(work: Path) -> None:
    """Removes the work folder, whose results are in the outputs now.

    It is renamed first, so that a removal that is cut off leaves nothing that a later run would resume.
    """
    finished = work.with_name(f"{work.name}{FINISHED}")
    shutil.rmtree(finished, ignore_errors=True)
    work.rename(finished)
    shutil.rmtree(finished, ignore_errors=True)


def _done_by_others(project: Project, name: str, training: bool, parallel: bool, recorded: bool) -> int | None:
    """Has the processes that params.yaml asks for run this stage; None if this process is one of them."""
    if "DVC_ROOT" in os.environ:
        end_with_parent()
    several = among_several(os.environ)
    if recorded and (command := _launcher(project)):
        return _launch(command, project.root, name)
    if several or "SCM_STARTED" in os.environ:
        return None
    processes = project.params.runtime.processes
    if processes > 1 and (training or parallel):
        return _start_processes(name, processes)
    if training:
        _start_again(name)
    return None


def _launcher(project: Project) -> list[str] | None:
    """The words of `runtime.launcher` in the process that DVC has started; None where nothing is to be launched."""
    given = project.params.runtime.launcher
    if given is None or "DVC_ROOT" not in os.environ or "SCM_LAUNCHED" in os.environ:
        return None
    return launcher.command_of(given, project.root)


def _launch(command: list[str], root: Path, name: str) -> int:
    """Has the launcher run this stage; returns the exit code."""
    arguments = sys.argv[1:]
    environment = launcher.environment_for({**MALLOC, **DETERMINISTIC}, SCM_LAUNCHED="1")
    code = launcher.run([*command, "-m", f"stages.{name}", *arguments], environment)
    if code == 0:
        launcher.check_seen(run_path(root, "@".join([name, *arguments])))
    return code


def _start_processes(name: str, processes: int) -> int:
    """Has torchrun run this stage in several processes of this machine; returns the exit code."""
    torchrun = [sys.executable, "-m", "scm.pipeline.torchrun", "--standalone", f"--nproc-per-node={processes}"]
    environment = launcher.environment_for(MALLOC, SCM_STARTED="1")
    return launcher.run([*torchrun, "-m", f"stages.{name}", *sys.argv[1:]], environment)


def _start_again(name: str) -> None:
    """Replaces this process by one that has MALLOC in its environment."""
    command = [sys.executable, "-m", f"stages.{name}", *sys.argv[1:]]
    os.execve(sys.executable, command, {**MALLOC, **os.environ, "SCM_STARTED": "1"})
