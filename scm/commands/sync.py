"""`scm sync`: sends to MLflow what it lacks."""

import argparse

from scm.commands.arguments import command
from scm.errors import printable


def add(commands: argparse._SubParsersAction) -> None:
    summary = "send to MLflow what it does not have yet; running it again changes nothing"
    command(commands, "sync", _sync, summary, "scm sync")


def _sync(_: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.tracking.sync import sync

    print(*map(printable, sync(Project.open())), sep="\n")
    return 0
