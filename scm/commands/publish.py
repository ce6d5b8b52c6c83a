"""`scm publish`, `scm rollback` and `scm champion`: the gate before the registry of models."""

import argparse

from scm.commands.arguments import command, version
from scm.errors import UserError, printable


def add(commands: argparse._SubParsersAction) -> None:
    summary = "compare the new model with the champion and promote it if it is better"
    publish = command(commands, "publish", _publish, summary, "scm publish", "scm publish --dry-run")
    publish.add_argument("--dry-run", action="store_true", help="write results/verdict.* and leave the registry alone")
    summary = "make the previous champion the champion again"
    rollback = command(commands, "rollback", _rollback, summary, "scm rollback", "scm rollback --to 3")
    rollback.add_argument("--to", type=version, metavar="VERSION", help="promote this version instead")
    command(commands, "champion", _champion, "print the champion's version, distance and commit", "scm champion")


def _publish(options: argparse.Namespace) -> int:
    """Returns 1 if the candidate is refused."""
    from scm.params.project import Project
    from scm.publishing.publish import publish

    outcome = publish(Project.open(), dry_run=options.dry_run)
    lines = [outcome.title, *(f"  {reason}" for reason in outcome.reasons), "results/verdict.md has the rest"]
    print("\n".join(map(printable, lines)))  # a reason may quote the store's tags
    return 1 if outcome.verdict is not None and outcome.verdict.kind == "refused" else 0


def _rollback(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.publishing.publish import rollback

    print(rollback(Project.open(), options.to))
    return 0


def _champion(_: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.publishing import verdict
    from scm.publishing.publish import champion_of

    project = Project.open()
    name, found = project.params.registered_name, champion_of(project, "scm champion")
    if found is None:
        raise UserError(f"{name} has no champion: run `scm publish`")
    dirty = " with uncommitted changes" if found.origin.get("dirty") == "true" else ""
    measured = f"fd@{found.evaluations} {verdict.distance(found, found.evaluations)}"
    line = f"{name} version {found.version}: {found.model}, {measured}, commit {found.origin.get('commit', '')}{dirty}"
    print(printable(line))
    return 0
