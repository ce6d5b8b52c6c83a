"""The champion measured anew where its figures say nothing about a new candidate: new images, another `evaluate`.

It works in a copy of the project (`scm.experiments.clone`): there dvc.lock is the one that the champion was published
with, kept in MLflow, but for the stages that make the ruler, which are the project's own. So the champion's weights and
their codec come out of DVC's cache or remote, whatever has been trained since; one stage runs, and the gate takes its
figures as those of the champion's own weights. Killed at any moment, it leaves nothing behind; `evaluate` goes on from
the project's .work.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from scm.base.files import write_text
from scm.base.yaml_files import parse_mapping, read_text, render
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError
from scm.params import Params
from scm.pipeline import clone, dvc_command
from scm.pipeline.supervisor import Sessions
from scm.publishing.candidate import RULER, model_files, protocol_parts, trainings_of
from scm.publishing.entry import Entry
from scm.publishing.publish import FILES, open_registry, publish
from scm.publishing.verdict import Outcome
from scm.results.fingerprint import made_by_stages
from scm.results.provenance import chain
from scm.tracking.records import Settings
from scm.tracking.store import answered

OF_RULER = ("prepare", "reference")
"""Stages that are the project's own, not the champion's."""
CODEC = "data/codec"


def same_ruler(root: Path, params: Params, champion: Entry) -> bool:
    """Whether the champion was measured as a model of this project would be measured now.

    The stage `reference` has to be up to date. Told by what the protocol follows from: where that is equal, so is it.
    """
    ruler = made_by_stages(root).get(RULER, {}).get("md5", "")
    run = {"item": champion.model, "chain": chain(root, params, champion.model), "params": {}, "deps": {RULER: ruler}}
    return protocol_parts(run) == dict(champion.parts)


def measure_anew(root: Path, params: Params, settings: Settings, champion: Entry) -> Outcome:
    """Evaluates the champion by the ruler of now and publishes its new figures.

    Raises:
        UserError: params.yaml does not evaluate its model, its files are gone, or the gate refuses the figures.
        Interrupted: by a signal; the same call goes on.
    """
    model = champion.model
    if model not in params.evaluate.models:
        known = ", ".join(params.evaluate.models)
        what = f"the champion, version {champion.version}, is of the model {model}, which it does not have ({known})"
        raise UserError(f"params.yaml: evaluate.models: {what}: add {model}, so that the champion can be measured anew")
    asked = params.publish.model_copy(update={"model": model, "evaluations": champion.evaluations})
    theirs = params.model_copy(update={"publish": asked})
    lock = _lock(root, params, settings, champion)
    with clone.clone(root, None, "champion") as made:
        write_text(made.folder / "dvc.lock", render(lock))
        _bring(root, made.folder, model, params, champion)
        with Sessions(made.folder) as sessions:
            process = sessions.start(["--single-item", f"evaluate@{model}"], {"DVC_ROOT": str(root)})
            code = sessions.outcome(sessions.wait([process]))
        if code == EXIT_INTERRUPTED:
            raise Interrupted("run the same command to go on")
        if code:
            raise UserError(f"evaluate@{model} of the champion, version {champion.version}, failed: see above")
        outcome = publish(made.folder, theirs, settings)
    if outcome.verdict is not None and outcome.verdict.kind == "refused":
        reasons = "; ".join(outcome.reasons)
        raise UserError(
            f"the champion, version {champion.version}, cannot be measured anew ({reasons}): `scm rollback`"
        )
    return outcome


def _lock(root: Path, params: Params, settings: Settings, champion: Entry) -> dict[str, Any]:
    """The champion's dvc.lock with this project's ruler."""
    text = answered(settings, "scm retrain", lambda: _kept(params, settings, champion))
    lock = parse_mapping(text, f"dvc.lock of version {champion.version}")
    own = parse_mapping(read_text(root / "dvc.lock", "run `scm run reference`"), "dvc.lock")
    lock["stages"] |= {name: own["stages"][name] for name in OF_RULER}
    return lock


def _kept(params: Params, settings: Settings, champion: Entry) -> str:
    """The text of the dvc.lock that `scm publish` put into MLflow."""
    registry = open_registry(settings, params.registered_name)
    address = registry.version(str(champion.version)).tags.get(FILES, "")
    match = re.fullmatch(r"runs:/([^/]+)/(.+)", address)
    if match is None:
        raise UserError(f"version {champion.version} of {registry.name} has no tag {FILES}: publish it again")
    with tempfile.TemporaryDirectory(prefix="scm-champion-") as folder:
        path = registry.client.download_artifacts(match[1], f"{match[2]}/dvc.lock", folder)
        return read_text(Path(path), "publish it again")


def _bring(root: Path, folder: Path, model: str, params: Params, champion: Entry) -> None:
    """What the evaluation reads, and the records of the trainings, which the gate asks after their health."""
    source = dvc_command.remote(root)
    if source is not None:  # a relative address would be another one there
        dvc_command.dvc(folder, "remote", "modify", "--local", source.name, "url", source.address)
    records = [f"results/runs/{name}.json" for name in trainings_of(params, model)]
    wanted = [RULER, CODEC, *model_files(model), *records]
    if dvc_command.bring(folder, wanted, source):
        place = "DVC's cache" if source is None else "DVC's cache and remote"
        what = f"files of the champion, version {champion.version}, are in {place} no more"
        raise UserError(f"{what}: `scm rollback` to one that can be measured, or `dvc freeze reference`")
