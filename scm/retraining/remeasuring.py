"""Re-evaluates the champion if new images or another `evaluate` changed the metric.

This happens in a copy of the project (`scm.pipeline.clone`). The copy's dvc.lock is the one that the champion was
published with, which MLflow keeps, except that the stages that make the ruler are the project's own. The champion's
weights and codec therefore come from DVC's cache or remote, whatever has been trained since. One stage runs, and the
gate takes its figures as new figures of the champion's weights. A process killed at any moment leaves nothing behind,
and `evaluate` resumes from the project's .work.
"""

from pathlib import Path
from typing import Any

from scm.base.files import write_text
from scm.base.project import TEACHER
from scm.base.yaml_files import render
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params import Params
from scm.params.project import Project
from scm.pipeline import clone, dvc_command
from scm.pipeline.supervisor import Sessions
from scm.publishing.candidate import RULER, model_files, protocol_parts, trainings_of
from scm.publishing.entry import Entry
from scm.publishing.publish import kept_file, publish
from scm.publishing.verdict import Outcome
from scm.results.fingerprint import made_by_stages, parse_lock, read_lock
from scm.results.provenance import chain
from scm.tracking import store

OF_RULER = ("prepare", "reference")
"""Stages whose entries in dvc.lock are the project's own, not the champion's."""
CODEC = "data/codec"


def same_ruler(project: Project, champion: Entry) -> bool:
    """True if the champion's figures follow from the same protocol as those that this project would measure now.

    The stage `reference` must be up to date. Compares the parts that the protocol follows from: equal parts make equal
    protocols.
    """
    ruler = made_by_stages(project.root).get(RULER, {}).get("md5", "")
    run = {"item": champion.model, "chain": chain(project, champion.model), "params": {}, "deps": {RULER: ruler}}
    return protocol_parts(run) == dict(champion.parts)


def measure_anew(project: Project, champion: Entry) -> Outcome:
    """Evaluates the champion by the present ruler and publishes its new figures.

    Raises:
        UserError: params.yaml does not evaluate its model, its files are gone, or the gate refuses the figures.
        Interrupted: by a signal; the same call goes on.
    """
    root, params, model = project.root, project.params, champion.model
    if model not in params.evaluate.models:
        known = ", ".join(params.evaluate.models)
        what = f"the champion, version {champion.version}, is of the model {model}, which is not among {known}"
        raise UserError(
            f"params.yaml: evaluate.models: {what}: add {model}, so that the champion can be measured again"
        )
    asked = params.publish.model_copy(update={"model": model, "evaluations": champion.evaluations})
    lock = _lock(project, champion)
    with clone.clone(root, None, "champion") as made:
        # The champion's models, by its own dvc.lock.
        write_text(made.folder / "dvc.lock", render(lock))
        _bring(root, made.folder, params, champion)
        # The one stage that runs.
        with Sessions(made.folder) as sessions:
            process = sessions.start(["--single-item", f"evaluate@{model}"], {"DVC_ROOT": str(root)})
            code = sessions.outcome(sessions.wait([process]))
        if code == EXIT_INTERRUPTED:
            raise Interrupted("run the same command to go on")
        if code:
            raise UserError(f"evaluate@{model} of the champion, version {champion.version}, failed: see above")
        # Published from the copy, into the project's store.
        outcome = publish(Project(made.folder, params.model_copy(update={"publish": asked}), original=root))
    if outcome.verdict is not None and outcome.verdict.kind == "refused":
        reasons = "; ".join(outcome.reasons)
        raise UserError(
            f"the champion, version {champion.version}, cannot be measured again ({reasons}): `scm rollback`"
        )
    return outcome


def _lock(project: Project, champion: Entry) -> dict[str, Any]:
    """The champion's dvc.lock with this project's ruler."""
    text = store.answered(project.tracking, "scm retrain", lambda: kept_file(project, champion, "dvc.lock"))
    lock = parse_lock(text, f"dvc.lock of version {champion.version}", "publish it again")
    own = read_lock(project.root / "dvc.lock")
    if lacking := [name for name in OF_RULER if name not in own["stages"]]:
        raise UserError(f"dvc.lock lacks stages.{lacking[0]}: run `scm run {lacking[0]}`")
    lock["stages"] |= {name: own["stages"][name] for name in OF_RULER}
    return dict(lock)


def _bring(root: Path, folder: Path, params: Params, champion: Entry) -> None:
    """Brings what the evaluation reads, and the run files of the trainings, whose health the gate checks."""
    source = dvc_command.remote(root)
    if source is not None:  # a relative address would lead elsewhere from the copy
        dvc_command.dvc(folder, "remote", "modify", "--local", source.name, "url", source.address)
    stages = [*trainings_of(params, champion.model), f"select_ema@{TEACHER}"]  # the origin of a guide is in the latter
    records = [f"results/runs/{name}.json" for name in stages]
    wanted = [RULER, CODEC, *model_files(champion.model), *records]
    if dvc_command.bring(folder, wanted, source):
        place = "DVC's cache" if source is None else "DVC's cache and remote"
        what = f"files of the champion, version {champion.version}, are no longer in {place}"
        raise UserError(f"{what}: `scm rollback` to one that can be measured, or `dvc freeze reference`")
