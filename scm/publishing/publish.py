"""`scm publish`, `scm rollback`, `scm champion`: the gate before the registry of models.

The order in which `scm publish` works, so that nothing half-done looks done, and the same command finishes what another
one began:

1. results/verdict.* say "not published";
2. the candidate's run has its params.yaml and dvc.lock in MLflow;
3. the version is registered, with all its tags (it is found again by the tag scm.key, so there is no second one);
4. its tags scm.previous and scm.verdict are set;
5. the alias moves;
6. results/verdict.* say "published".
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from scm.base.project import find_root
from scm.errors import UserError
from scm.params import Params, load
from scm.publishing import verdict
from scm.publishing.candidate import candidate_of, require_weights
from scm.publishing.entry import KEY, PARTS, PREVIOUS, VERDICT, WEIGHTS, Entry, champion_in, entry_of, tags_of
from scm.publishing.gate import Rules, Verdict, decide
from scm.publishing.verdict import Outcome
from scm.results.reading import run_path
from scm.tracking import sending, store
from scm.tracking.records import RunRecord, Settings
from scm.tracking.registry import CHALLENGER, ROLLED_BACK, Registry, sole_publisher
from scm.tracking.store import answered, is_new
from scm.tracking.sync import record_of

FILES = "scm.files"
"""Tag of a version: the folder of its run in MLflow that holds its params.yaml and dvc.lock."""
OF_THE_EVALUATION = ("dvc_lock", "run_key")
"""Of a version's origin, what is not the model's."""


def publish_command(args: argparse.Namespace) -> int:
    """`scm publish`; 1 if the candidate is refused."""
    root, params, settings = _project()
    outcome = publish(root, params, settings, dry_run=args.dry_run)
    print("\n".join([outcome.title, *(f"  {reason}" for reason in outcome.reasons), "results/verdict.md has the rest"]))
    return 1 if outcome.verdict is not None and outcome.verdict.kind == "refused" else 0


def rollback_command(args: argparse.Namespace) -> int:
    """`scm rollback [--to VERSION]`."""
    _, params, settings = _project()
    print(rollback(settings, params.registered_name, args.to))
    return 0


def champion_command(args: argparse.Namespace) -> int:
    """`scm champion`: the champion's version, distance and commit in one line."""
    del args
    _, params, settings = _project()
    name = params.registered_name
    found = champion_of(settings, name, "scm champion")
    if found is None:
        raise UserError(f"{name} has no champion: run `scm publish`")
    dirty = " with uncommitted changes" if found.origin.get("dirty") == "true" else ""
    measured = f"fd@{found.evaluations} {verdict.distance(found, found.evaluations)}"
    print(f"{name} version {found.version}: {found.model}, {measured}, commit {found.origin.get('commit', '')}{dirty}")
    return 0


def champion_of(settings: Settings, name: str, command: str) -> Entry | None:
    """The champion, None if there is none yet; `command` is what to run again if the registry does not answer."""
    return None if is_new(settings) else answered(settings, command, lambda: champion_in(open_registry(settings, name)))


def publish(root: Path, params: Params, settings: Settings, *, dry_run: bool = False) -> Outcome:
    """Decides about the candidate in results/ and carries the decision out.

    Args:
        dry_run: the registry is asked, if there is one, but nothing is written there.

    Raises:
        UserError: there is no candidate that could be judged, or the registry does not answer; results/verdict.* are
            written all the same in the second case.
    """
    name = params.registered_name
    verdict.forget(root)
    candidate = candidate_of(root, params, name)
    outcome = Outcome(name, candidate, Rules(params.publish.allowed, params.publish.deviations), dry_run)
    verdict.write(root, outcome)

    def work() -> None:
        with sole_publisher(settings):
            registry = open_registry(settings, name)
            judge(registry, outcome)
            verdict.write(root, outcome)
            if not dry_run:
                carry_out(registry, outcome, root, params, settings)

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


def judge(registry: Registry, outcome: Outcome) -> None:
    """Looks up the champion and the candidate's own version, if it was registered before, and decides."""
    for version in registry.versions():
        if version.tags.get(WEIGHTS) == outcome.candidate.weights and ROLLED_BACK in version.tags:
            outcome.candidate = replace(outcome.candidate, rolled_back=version.number)
        if version.tags.get(KEY) == outcome.candidate.key:
            outcome.candidate = replace(outcome.candidate, version=version.number)
    outcome.champion = champion_in(registry)
    outcome.version = outcome.candidate.version
    outcome.verdict = decide(outcome.candidate, outcome.champion, outcome.rules)


def carry_out(registry: Registry, outcome: Outcome, root: Path, params: Params, settings: Settings) -> None:
    """Makes the registry say what the verdict says; what it says already is not written again."""
    decision, champion = outcome.verdict, outcome.champion
    assert decision is not None
    if decision.kind == "refused":
        return
    before = None if champion is None else champion.version
    if decision.kind == "unchanged":
        assert champion is not None
        outcome.version = before
        if outcome.candidate.protocol == champion.protocol:  # whatever it follows from by now
            registry.tag(str(before), PARTS, tags_of(outcome.candidate)[PARTS])
    else:
        previous = previous_of(outcome.candidate, champion)
        if outcome.version is None:
            outcome.version = _register(registry, outcome, previous, root, params, settings)
        _place(registry, decision, outcome.version, previous, before)
    outcome.published = True


def rollback(settings: Settings, name: str, to: str | None) -> str:
    """Makes an earlier version the champion again; says what it did.

    Args:
        to: number of a version; None = the champion's predecessor.

    The version that is left gets a mark by which `scm publish` does not promote its weights again; the one that
    becomes champion loses it.
    """
    if is_new(settings):
        raise UserError(f"{name} has no champion that could be rolled back: run `scm publish`")

    def work() -> str:
        with sole_publisher(settings):
            registry = open_registry(settings, name)
            champion = champion_in(registry)
            target = to or _predecessor(name, champion)
            entry = entry_of(name, registry.version(target))
            before = None if champion is None else champion.version
            if target == before:
                return f"{name} version {target} is the champion already: nothing to do"
            registry.tag(target, ROLLED_BACK, None)
            if before is not None and (to is None or int(to) < int(before)):
                registry.tag(before, ROLLED_BACK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            registry.move_champion(before, target)
            measured = f"fd@{entry.evaluations} {verdict.distance(entry, entry.evaluations)}"
            return f"{name}: champion is version {target} again ({measured}), it was version {before or 'none'}"

    return answered(settings, "scm rollback", work)


def previous_of(candidate: Entry, champion: Entry | None) -> str | None:
    """The version that a rollback from the candidate leads to: another model, not the same one as it was measured."""
    if champion is None:
        return None
    return champion.previous if candidate.weights == champion.weights else champion.version


def _register(
    registry: Registry, outcome: Outcome, previous: str | None, root: Path, params: Params, settings: Settings
) -> str:
    """Makes the version. It has no alias yet, so that nobody takes it for anything.

    The champion's own weights, measured anew, are its package again, and come from where they came from.
    """
    candidate, champion = outcome.candidate, outcome.champion
    anew = champion if champion is not None and candidate.weights == champion.weights else None
    if anew is None:
        require_weights(root, candidate)
    record = record_of(root, run_path(root, f"evaluate@{candidate.model}"))
    files = _attach(registry, record, root, settings, candidate.origin["dvc_lock"][: verdict.DIGITS])
    if anew is not None:
        own = {name: candidate.origin[name] for name in OF_THE_EVALUATION}
        candidate = replace(candidate, origin={**anew.origin, **own})
    tags = {**tags_of(candidate), FILES: files, PREVIOUS: previous or ""}
    if anew is not None:
        return registry.register_again(str(anew.version), tags)
    return _log_version(settings, root, params, candidate.model, registry.name, tags)


def _attach(registry: Registry, record: RunRecord, root: Path, settings: Settings, mark: str) -> str:
    """Puts params.yaml and dvc.lock into the run of the candidate's evaluation; returns their folder's address."""
    client = registry.client
    sending.send(client, record, settings)
    run = sending.run_of(client, record.key)
    folder = f"publish/{mark}"
    for name in ("params.yaml", "dvc.lock"):
        client.log_artifact(run.info.run_id, str(root / name), folder)
    return f"runs:/{run.info.run_id}/{folder}"


def _log_version(settings: Settings, root: Path, params: Params, model: str, name: str, tags: dict[str, str]) -> str:
    """The packaged model as a new version of `name`; it brings torch, so it is imported late."""
    from scm.product.packaging import log_version

    return log_version(settings, root, params, model, name, tags)


def _place(registry: Registry, decision: Verdict, version: str, previous: str | None, before: str | None) -> None:
    """Gives a version that is complete its alias."""
    registry.tag(version, VERDICT, decision.kind)
    registry.describe(version, "; ".join(decision.reasons))
    if decision.kind == "challenger":
        registry.give(CHALLENGER, version)
        return
    registry.tag(version, PREVIOUS, previous or "")
    registry.move_champion(before, version)


def _predecessor(name: str, champion: Entry | None) -> str:
    if champion is None:
        raise UserError(f"{name} has no champion that could be rolled back: run `scm publish`")
    if not champion.previous:
        remedy = "`scm rollback --to VERSION` takes any other"
        raise UserError(f"{name} version {champion.version} was the first champion, none was before it: {remedy}")
    return champion.previous


def _project() -> tuple[Path, Params, Settings]:
    root = find_root()
    params = load(root / "params.yaml")
    settings = Settings.of(params, root)
    if not settings.enabled:
        raise UserError("mlflow.enabled = false: there is no registry of models; write true into params.yaml")
    return root, params, settings


def open_registry(settings: Settings, name: str) -> Registry:
    return Registry(store.connect(settings), name)
