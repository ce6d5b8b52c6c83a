"""`scm retrain`: the cycle that a schedule starts, as a whole on one machine or as three jobs of a CI service.

    plan      what would run, and why
    train     `scm run`, and a new evaluation of the champion if new images or settings changed the metric
    publish   the gate, and a branch or a pull request with the new results

Each action may be interrupted at any moment and started again. Two in one folder wait for each other
(.work/retrain.lock), and the second one finds the first one's work up to date. Between machines, a concurrency group of
the CI service has to keep two from working at once.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from scm.base import locks
from scm.base.files import write_text
from scm.base.processes import on_stop
from scm.base.project import TEACHER
from scm.base.tables import escape
from scm.base.yaml_files import read_text
from scm.comparison.comparison import compared
from scm.comparison.page import FILE, markdown, page
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params.project import Project
from scm.pipeline import dvc_command
from scm.pipeline.plan import UP_TO_DATE, plan
from scm.pipeline.plan_cost import estimates
from scm.pipeline.plan_table import table
from scm.pipeline.supervisor import run
from scm.presets.apply import apply, set_values
from scm.publishing import verdict
from scm.publishing.candidate import model_files
from scm.publishing.entry import FEWEST_RANGES, Entry
from scm.publishing.publish import champion_of, publish, require_registry
from scm.retraining import ci, remeasuring
from scm.retraining.proposal import propose

RESULTS = ("results/runs", "results/samples")
"""Folders of small outputs, which the report and the gate read as wholes."""
PUBLISHED = ("data/codec", *RESULTS)
"""Outputs that publishing reads beside the files of the model and of its teacher, which is packaged with it."""
_GO_ON = "run the same command to go on"


@dataclass(frozen=True)
class Request:
    """What `scm retrain` is asked to do.

    Attributes:
        action: plan, train or publish; None = all three.
        preset: applied to params.yaml first; "" = none.
        params: values written into params.yaml then, by dotted key.
        force: run all stages, even those that are up to date.
        assume_data: in the plan, treat missing images as unchanged since dvc.lock.
        minutes: time after which a training is interrupted; None = no limit.
        propose: github, gitlab or branch: where the results are proposed; None = nowhere.
        remote: git's name of the remote for that.
    """

    action: str | None = None
    preset: str = ""
    params: Mapping[str, Any] | None = None
    force: bool = False
    assume_data: bool = False
    minutes: float | None = None
    propose: str | None = None
    remote: str = "origin"


def retrain(root: Path, request: Request) -> int:
    """Carries out `scm retrain` in the project's folder.

    Returns:
        the exit code: 0; 1 if a stage failed or the candidate is refused; 75 if interrupted, and the same request
        goes on.
    """
    waiting = "another `scm retrain` is at work (process {}): waiting for it"
    with locks.held(root / ".work" / "retrain.lock", waiting=lambda holder: _say(waiting.format(holder))):
        if request.action == "publish":
            return _publish(_opened(root), request)
        project = _edited(root, request)
        if request.action != "train":
            _plan(project, request)
        if request.action == "plan":
            return 0
        # Even if no stage runs, an earlier cycle may have ended before the champion's evaluation or the publication.
        code = _train(project, request)
        return code if code or request.action == "train" else _publish(project, request)


def _plan(project: Project, request: Request) -> None:
    """Prints the plan, and tells the CI service if a stage would run."""
    steps = plan(project, request.assume_data)
    lines = table(steps, estimates(project, steps))
    runs = request.force or any(step.status != UP_TO_DATE for step in steps)
    if request.force:
        lines.append("--force: all stages run")
    print("\n".join(lines), flush=True)
    ci.output("runs", "true" if runs else "false")
    ci.summary("\n".join(["### Plan", "", "```", *lines, "```"]))


def _train(project: Project, request: Request) -> int:
    """Runs what is out of date, and gives the remote all results, even if a stage fails or is interrupted."""
    root = project.root
    remote, code = dvc_command.remote(root), 1
    arguments = [*(["--pull", "--allow-missing"] if remote else []), *(["--force"] if request.force else [])]
    try:
        with _limited(request.minutes):
            champion = _comparable_champion(project)
            dvc_command.bring_images(root, project.params.data.path, remote)
            if remote is not None:  # the report reads whole folders, and `dvc repro --pull` does not bring these
                dvc_command.bring(root, RESULTS, remote)
            result = run(arguments, root=root)
            if result == 0 and champion is not None:
                _measure_anew(project, champion)
        code = result
    except Interrupted:
        code = EXIT_INTERRUPTED
    finally:
        # Results go to the remote and the state to the CI service, whatever exception is on its way.
        state = {0: "done", EXIT_INTERRUPTED: "interrupted"}.get(code, "failed")
        code = min(code, 1) if state == "failed" else code
        fault = _pushed(root, remote)
        ci.output("state", "failed" if fault and state == "done" else state)
        ci.summary(f"Training: {state}")
    if state == "interrupted":
        _say(f"interrupted: {_GO_ON}")
    if fault is not None and state == "done":
        raise fault
    return code


def _pushed(root: Path, remote: dvc_command.Remote | None) -> UserError | None:
    """Gives the remote what it lacks; prints and returns the error if that fails."""
    try:
        if remote is not None:
            _say(f"giving the remote {remote.name} what it lacks")
            dvc_command.push(root)
    except UserError as error:
        _say(str(error))
        return error
    return None


def _comparable_champion(project: Project) -> Entry | None:
    """The champion, None if there is none yet.

    Raises:
        UserError: a candidate could not be compared with the champion; known here before hours of training.
    """
    champion, repeats = champion_of(project, "scm retrain"), project.params.evaluate.repeats
    if champion is not None and repeats < FEWEST_RANGES:
        why = f"one range of seeds cannot tell if a model is better than the champion, version {champion.version}"
        raise UserError(f"evaluate.repeats = {repeats}: {why}: write 3 into params.yaml")
    return champion


def _measure_anew(project: Project, champion: Entry) -> None:
    """Re-evaluates the champion if its figures cannot be compared with those of the models that have just run."""
    if remeasuring.same_ruler(project, champion):
        return
    _say(f"the champion, version {champion.version}, was measured by another ruler: measuring it anew")
    _say_outcome(remeasuring.measure_anew(project, champion))


def _publish(project: Project, request: Request) -> int:
    """Publishes the model and proposes the results; 1 if the gate refuses the model."""
    root = project.root
    # Another machine may have trained: everything that publishing reads comes from DVC's cache or remote.
    wanted = sorted({*model_files(project.params.publish.model), *model_files(TEACHER), *PUBLISHED})
    remote = dvc_command.remote(root)
    missing = dvc_command.bring(root, wanted, remote)
    if missing:
        remedy = "run `scm retrain train` here" if remote is None else "run `scm retrain train`, which gives them to it"
        where = "there is no DVC remote" if remote is None else f"the remote {remote.name} lacks it"
        raise UserError(f"{root / missing[0]} is missing, and {where}: {remedy}")
    # The gate, and what it decided for people to read.
    outcome = publish(project)
    refused = outcome.verdict is not None and outcome.verdict.kind == "refused"
    address = ci.artifacts()  # git does not keep the grids
    place = "`results/samples`" if address is None else f"[the files of the CI run]({address})"
    text = f"{verdict.page(root, outcome)}\n{_comparison(project)}\nAll sample grids lie in {place}.\n"
    if request.propose and not refused:
        branch = f"retrain/{outcome.candidate.key[: verdict.DIGITS]}"
        renew = outcome.verdict is None or outcome.verdict.kind != "unchanged"
        _say(propose(root, request.propose, request.remote, branch, outcome.title, text, renew=renew))
    ci.summary(text)
    _say_outcome(outcome)
    return 1 if refused else 0


def _comparison(project: Project) -> str:
    """The results beside those of HEAD, on which a proposal is based, as Markdown; writes the page as well."""
    try:
        with compared(project, ["HEAD"]) as comparison:
            write_text(project.root / FILE, page(comparison))
            return markdown(comparison, level=2) + f"\n`{FILE}` shows both sides' samples.\n"
    except UserError as error:
        return f"No comparison with HEAD: {escape(str(error))}\n"


def _edited(root: Path, request: Request) -> Project:
    """The project with the request's preset and values in params.yaml, which stays as it was if they are refused."""
    path = root / "params.yaml"
    before = read_text(path, "restore it with git")
    try:
        changes = apply(path, root, request.preset) if request.preset else []
        changes += set_values(path, request.params) if request.params else []
        project = _opened(root)
    except UserError:
        write_text(path, before)
        raise
    for change in changes:
        _say(change)
    return project


def _opened(root: Path) -> Project:
    """The project, from which something can be published: known before hours of training."""
    project = Project.open(root)
    require_registry(project)
    return project


@contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Interrupts the block at a signal or after this time; `scm run` then saves its state."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(_GO_ON)

    previous = on_stop(interrupt)
    timer = threading.Timer((minutes or 0) * 60, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if minutes:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say_outcome(outcome: verdict.Outcome) -> None:
    for line in (outcome.title, *(f"  {reason}" for reason in outcome.reasons)):
        _say(line)


def _say(text: str) -> None:
    print(f"scm retrain: {text}", file=sys.stderr, flush=True)
