"""`scm publish`, `scm rollback` and `scm champion`: what they read from the registry of models and write into it.

`scm publish` works in this order, so that nothing half-done looks done, and running it again finishes what an
interrupted run began:

1. results/verdict.* say "not published";
2. params.yaml and dvc.lock are attached to the candidate's run in MLflow;
3. the version is registered with all its tags (a repetition finds it by its key, so there is no second one);
4. the version gets its verdict and its predecessor;
5. the alias moves;
6. results/verdict.* say "published".
"""

import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from scm.base.yaml_files import read_text
from scm.errors import UserError
from scm.params.project import Project
from scm.publishing import entry as tags
from scm.publishing import verdict
from scm.publishing.candidate import candidate_of, require_weights
from scm.publishing.entry import Entry, champion_in, entry_of, tags_of
from scm.publishing.gate import Rules, decide
from scm.publishing.verdict import Outcome
from scm.results.reading import run_path
from scm.tracking import sending, store
from scm.tracking.registry import CHALLENGER, CHAMPION, Registry, sole_publisher
from scm.tracking.store import answered, is_new
from scm.tracking.sync import record_of

NO_CHAMPION = "has no champion that could be rolled back: run `scm publish`"
OF_THE_EVALUATION = ("dvc_lock", "run_key")
"""Origin fields that describe the evaluation, not the model."""


def publish(project: Project, *, dry_run: bool = False) -> Outcome:
    """Decides about the candidate in results/ and carries the decision out; a dry run writes nothing to the registry.

    Raises:
        UserError: no candidate can be judged, or the registry does not answer; in the second case results/verdict.* are
            written all the same.
    """
    require_registry(project)
    root, params, settings = project.root, project.params, project.tracking
    verdict.forget(root)
    candidate = candidate_of(project)
    rules = Rules(params.publish.allowed, params.publish.deviations)
    outcome = Outcome(params.registered_name, candidate, rules, dry_run)
    verdict.write(root, outcome)

    def work() -> None:
        with sole_publisher(settings):
            registry = open_registry(project)
            judge(registry, outcome)
            verdict.write(root, outcome)
            if not dry_run:
                carry_out(registry, outcome, project)

    try:
        if dry_run and is_new(settings):
            outcome.verdict = decide(candidate, None, outcome.rules)
        else:
            answered(settings, "scm publish", work)
    except UserError as error:
        outcome.error = str(error)
        raise
    finally:
        verdict.write(root, outcome)
    return outcome


def rollback(project: Project, to: str | None) -> str:
    """Makes an earlier version the champion again; returns a line that says what was done.

    The version that it replaces gets a mark, and `scm publish` does not promote marked weights again. The new champion
    loses its mark.

    Args:
        to: number of a version; None = the champion's predecessor.

    Raises:
        UserError: no such version, no predecessor, or the registry does not answer.
    """
    require_registry(project)
    name, settings = project.params.registered_name, project.tracking
    if is_new(settings):
        raise UserError(f"{name} {NO_CHAMPION}")

    def work() -> str:
        with sole_publisher(settings):
            registry = open_registry(project)
            champion = champion_in(registry)
            if not to and champion is None:
                raise UserError(f"{name} {NO_CHAMPION}")
            before = None if champion is None else champion.version
            target = to or (champion.previous if champion else None)
            if target is None:
                remedy = "`scm rollback --to VERSION` takes any other"
                raise UserError(f"{name} version {before} was the first champion, none was before it: {remedy}")
            entry = entry_of(name, registry.version(target))
            if target == before:
                return f"{name} version {target} is the champion already: nothing to do"
            # Marks first, the alias last: a crash in between leaves the old champion in place.
            registry.tag(target, tags.ROLLED_BACK, None)
            if before is not None and (to is None or int(to) < int(before)):
                registry.tag(before, tags.ROLLED_BACK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            registry.move_champion(before, target)
            measured = f"fd@{entry.evaluations} {verdict.distance(entry, entry.evaluations)}"
            return f"{name}: champion is version {target} again ({measured}), it was version {before or 'none'}"

    return answered(settings, "scm rollback", work)


def champion_of(project: Project, command: str) -> Entry | None:
    """The champion, None if there is none yet; if the registry does not answer, the remedy is to repeat `command`."""
    require_registry(project)
    if is_new(project.tracking):
        return None
    return answered(project.tracking, command, lambda: champion_in(open_registry(project)))


def require_registry(project: Project) -> None:
    """Raises UserError if params.yaml turns MLflow off, which holds the registry."""
    if not project.tracking.enabled:
        raise UserError("mlflow.enabled = false: there is no registry of models; write true into params.yaml")


def open_registry(project: Project) -> Registry:
    return Registry(store.connect(project.tracking), project.params.registered_name)


def judge(registry: Registry, outcome: Outcome) -> None:
    """Looks up the champion, and the candidate's own version if it was registered before, and decides."""
    for version in registry.versions():
        if version.tags.get(tags.WEIGHTS) == outcome.candidate.weights and tags.ROLLED_BACK in version.tags:
            outcome.candidate = replace(outcome.candidate, rolled_back=version.number)
        if version.tags.get(tags.KEY) == outcome.candidate.key:
            outcome.candidate = replace(outcome.candidate, version=version.number)
    outcome.champion = champion_in(registry)
    outcome.version = outcome.candidate.version
    outcome.verdict = decide(outcome.candidate, outcome.champion, outcome.rules)


def carry_out(registry: Registry, outcome: Outcome, project: Project) -> None:
    """Makes the registry agree with the verdict; writes only what differs."""
    decision, champion = outcome.verdict, outcome.champion
    assert decision is not None
    if decision.kind == "refused":
        return
    before = None if champion is None else champion.version
    if decision.kind == "unchanged":
        assert champion is not None
        outcome.version = before
        if outcome.candidate.protocol == champion.protocol:  # the same protocol may follow from other parts by now
            registry.tag(str(before), tags.PARTS, tags_of(outcome.candidate)[tags.PARTS])
    else:
        # A rollback from the candidate leads to a version with other weights.
        same_weights = champion is not None and outcome.candidate.weights == champion.weights
        candidate = replace(outcome.candidate, previous=champion.previous if champion and same_weights else before)
        if outcome.version is None:
            alias = CHALLENGER if decision.kind == "challenger" else CHAMPION
            outcome.version = _register(registry, candidate, champion if same_weights else None, project, alias)
        # A complete version gets its verdict, then its alias.
        registry.tag(outcome.version, tags.VERDICT, decision.kind)
        registry.describe(outcome.version, verdict.description(outcome))
        if decision.kind == "challenger":
            registry.give(CHALLENGER, outcome.version)
        else:
            registry.tag(outcome.version, tags.PREVIOUS, candidate.previous or "")
            registry.move_champion(before, outcome.version)
    outcome.published = True


def _register(registry: Registry, candidate: Entry, champion: Entry | None, project: Project, alias: str) -> str:
    """Registers the candidate and returns its version, which has no alias yet, so that nobody uses it.

    Args:
        champion: the champion if it has the candidate's weights: the version gets its package and keeps its origin.
        alias: what the version will get, by which its card loads it.
    """
    if champion is None:
        require_weights(project.root, candidate)
    files = _attach(registry, candidate, project)
    if champion is not None:
        measured = {name: candidate.origin[name] for name in OF_THE_EVALUATION}
        again = replace(candidate, origin={**champion.origin, **measured}, files=files)
        return registry.register_again(str(champion.version), tags_of(again))
    from scm.product import packaging  # it brings torch

    return packaging.log_version(project, candidate.model, tags_of(replace(candidate, files=files)), alias)


def _attach(registry: Registry, candidate: Entry, project: Project) -> str:
    """Stores params.yaml and dvc.lock with the run of the candidate's evaluation; returns their folder's address."""
    client, record = registry.client, record_of(project.root, run_path(project.root, f"evaluate@{candidate.model}"))
    sending.send(client, record, project.tracking)
    run = sending.run_of(client, record.key)
    folder = f"publish/{candidate.origin['dvc_lock'][: verdict.DIGITS]}"
    for name in ("params.yaml", "dvc.lock"):
        client.log_artifact(run.info.run_id, str(project.root / name), folder)
    return f"runs:/{run.info.run_id}/{folder}"


def kept_file(project: Project, entry: Entry, name: str) -> str:
    """The text of the params.yaml or dvc.lock that `scm publish` stored with a version; raises what MLflow raises."""
    match = re.fullmatch(r"runs:/([^/]+)/(.+)", entry.files or "")
    if match is None:
        what = f"version {entry.version} of {project.params.registered_name} has no {name} in MLflow"
        raise UserError(f"{what}: publish it again")
    with tempfile.TemporaryDirectory(prefix="scm-version-") as folder:
        path = store.connect(project.tracking).download_artifacts(match[1], f"{match[2]}/{name}", folder)
        return read_text(Path(path), "publish it again")
