"""`scm retrain`: the cycle that a schedule starts, as a whole on one machine or as three jobs of a CI service.

    plan      what would run, and why
    train     `scm run`, and the champion measured anew if the ruler is a new one
    publish   the gate, and a branch or a pull request with what is new

Each may end at any moment and be started again. Two in one folder wait for each other (.work/retrain.lock), and what
the first one has done the second one finds up to date. Between machines a concurrency group of the CI service does it.
"""

import argparse
import fcntl
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from scm.base.files import write_text
from scm.base.project import TEACHER, find_root
from scm.base.yaml_files import parse_mapping, read_text
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params import Params, load
from scm.pipeline import dvc_command
from scm.pipeline.plan import UP_TO_DATE, plan
from scm.pipeline.plan_cost import estimates
from scm.pipeline.plan_table import table
from scm.pipeline.supervisor import SIGNALS, run
from scm.presets.apply import apply, set_values
from scm.publishing import verdict
from scm.publishing.candidate import model_files
from scm.publishing.entry import FEWEST_RANGES, Entry
from scm.publishing.publish import champion_of, publish
from scm.publishing.verdict import Outcome
from scm.results.reading import evaluations_of, metrics_path, read_numbers, sample_path
from scm.retraining import ci, remeasuring
from scm.retraining.proposal import Text, picture_links, propose
from scm.tracking.records import Settings

RESULTS = ("results/runs", "results/samples")
"""Folders of outputs that are small, and that the report and the gate read as wholes."""
PUBLISHED = ("data/codec", *RESULTS)
"""Outputs that publishing reads beside the model's own and the teacher's, which accompanies it."""
_GO_ON = "run the same command to go on"


def retrain_command(options: argparse.Namespace) -> int:
    """`scm retrain [plan|train|publish]`; without an action all three.

    Returns:
        0; 1 if a stage failed or the candidate is refused; 75 if interrupted: the same command goes on.
    """
    root = find_root()
    with _sole(root):
        if options.action == "publish":
            return _publish(root, _checked(root), options)
        params = _edited(root, options)
        if options.action != "train":
            _plan(root, params, options)
        # Where nothing runs, the champion may still have to be measured, or the model to be published: the rest of a
        # cycle that has failed before.
        code = _train(root, params, options) if options.action != "plan" else 0
        return code if code or options.action is not None else _publish(root, params, options)


def _plan(root: Path, params: Params, options: argparse.Namespace) -> None:
    """Prints the plan, and tells the CI service whether something would run."""
    steps = plan(root, params, options.assume_data)
    lines = table(steps, estimates(root, steps, Settings.of(params, root), params.preset))
    runs = options.force or any(step.status != UP_TO_DATE for step in steps)
    if options.force:
        lines.append("--force: all stages run")
    print("\n".join(lines), flush=True)
    ci.output("runs", "true" if runs else "false")
    ci.summary("\n".join(["### Plan", "", "```", *lines, "```"]))


def _train(root: Path, params: Params, options: argparse.Namespace) -> int:
    """Runs what is out of date; whatever comes of it, interrupted or not, is given to the remote."""
    remote, code = dvc_command.remote(root), 1
    arguments = [*(["--pull", "--allow-missing"] if remote else []), *(["--force"] if options.force else [])]
    try:
        with _limited(options.minutes):
            champion = _champion(params, Settings.of(params, root))
            dvc_command.bring_images(root, params.data.path, remote)
            if remote is not None:  # the report reads them, and DVC does not pull what lies in a folder
                dvc_command.bring(root, RESULTS, remote)
            result = run(arguments, root=root)
            if result == 0 and champion is not None:
                _measure(root, params, champion)
        code = result
    except Interrupted:
        code = EXIT_INTERRUPTED
    finally:
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
    """Gives the remote what it lacks; what went wrong is said, and returned."""
    if remote is None:
        return None
    _say(f"giving the remote {remote.name} what it lacks")
    try:
        dvc_command.push(root)
    except UserError as error:
        _say(str(error))
        return error
    return None


def _champion(params: Params, settings: Settings) -> Entry | None:
    """The champion, None if there is none yet; checks, before hours of training, that it can be compared with."""
    champion = champion_of(settings, params.registered_name, "scm retrain")
    if champion is not None and params.evaluate.repeats < FEWEST_RANGES:
        what = f"what is better than the champion, version {champion.version}, cannot be told from one range of seeds"
        raise UserError(f"evaluate.repeats = {params.evaluate.repeats}: {what}: write 3 into params.yaml")
    return champion


def _measure(root: Path, params: Params, champion: Entry) -> None:
    """Measures the champion anew, if what has just run is measured in another way."""
    if remeasuring.same_ruler(root, params, champion):
        return
    _say(f"the champion, version {champion.version}, was measured by another ruler: measuring it anew")
    outcome = remeasuring.measure_anew(root, params, Settings.of(params, root), champion)
    for line in (outcome.title, *(f"  {reason}" for reason in outcome.reasons)):
        _say(line)


def _publish(root: Path, params: Params, options: argparse.Namespace) -> int:
    model = params.publish.model
    wanted = sorted({*model_files(model), *model_files(TEACHER), *PUBLISHED})
    remote = dvc_command.remote(root)
    missing = dvc_command.bring(root, wanted, remote)
    if missing:
        remedy = "run `scm retrain train` here" if remote is None else "run `scm retrain train`, which gives them to it"
        where = "there is no DVC remote" if remote is None else f"the remote {remote.name} lacks it"
        raise UserError(f"{root / missing[0]} is missing, and {where}: {remedy}")
    outcome = publish(root, params, Settings.of(params, root))
    refused = outcome.verdict is not None and outcome.verdict.kind == "refused"
    page = verdict.page(root, outcome)
    if options.propose and not refused:
        branch = f"retrain/{outcome.candidate.key[: verdict.DIGITS]}"
        links = picture_links(root, options.propose, options.remote, branch, _pictures(root, params, outcome))
        renew = outcome.verdict is None or outcome.verdict.kind != "unchanged"
        text = Text(outcome.title, page, links)
        _say(propose(root, options.propose, options.remote, branch, text, renew=renew))
        page = f"{page}\n{links}" if links else page
    ci.summary(page)
    for line in (outcome.title, *(f"  {reason}" for reason in outcome.reasons)):
        _say(line)
    return 1 if refused else 0


def _pictures(root: Path, params: Params, outcome: Outcome) -> list[Path]:
    """Grids of the candidate, and the teacher's best beside it."""
    teacher = metrics_path(root, "evaluate", TEACHER)
    paths = [root / path for path in verdict.grids(root, outcome.candidate)]
    if teacher is not None and teacher.exists() and params.publish.model != TEACHER:
        paths.append(sample_path(root, TEACHER, max(evaluations_of(read_numbers(teacher)))))
    return [path for path in paths if path.exists()]


def _edited(root: Path, options: argparse.Namespace) -> Params:
    """params.yaml with the preset and values of the command line written into it; as it was if they are refused."""
    path = root / "params.yaml"
    values, before = _values(options.params), read_text(path, "restore it with git")
    try:
        changes = apply(path, root, options.preset) if options.preset else []
        changes += set_values(path, values) if values else []
        params = _checked(root)
    except UserError:
        write_text(path, before)
        raise
    for change in changes:
        _say(change)
    return params


def _checked(root: Path) -> Params:
    """Parameters with which something can be published, known before hours of training."""
    params = load(root / "params.yaml")
    if not params.mlflow.enabled:
        raise UserError("mlflow.enabled = false: there is no registry of models; write true into params.yaml")
    return params


def _values(text: str) -> dict[str, Any]:
    """`KEY=VALUE KEY=VALUE`, values in YAML."""
    found = {}
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--params {text!r}: {error}: close the quotation") from None
    for part in parts:
        key, sign, value = part.partition("=")
        if not key or not sign:
            raise UserError(f"--params {part!r}: must be KEY=VALUE, such as teacher.images=1Mi")
        found[key] = parse_mapping(f"value: {value}", f"--params {part}")["value"]
    return found


@contextmanager
def _sole(root: Path) -> Iterator[None]:
    """Lets one retraining work at a time in this folder; a second one waits."""
    path = root / ".work" / "retrain.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            _say(f"another `scm retrain` is at work (process {handle.read().strip()}): waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextmanager
def _limited(minutes: float | None) -> Iterator[None]:
    """Within, a signal or the end of the time interrupts: what works under `scm run` saves its state."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(_GO_ON)

    previous = {number: signal.signal(number, interrupt) for number in SIGNALS}
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


def _say(text: str) -> None:
    print(f"scm retrain: {text}", file=sys.stderr, flush=True)
