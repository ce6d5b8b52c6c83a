"""`scm retrain`: one round of retraining, which a schedule starts."""

import argparse
import shlex
from typing import Any

from scm.base.project import find_root
from scm.commands.arguments import command, minutes
from scm.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    summary = "plan, train what is out of date and publish the model if it is better; made for schedules"
    examples = ('scm retrain --params "teacher.images=1Mi seed=1"', "scm retrain train --minutes 330")
    retrain = command(commands, "retrain", summary, "scm retrain", *examples, "scm retrain publish --propose github")
    retrain.add_argument("action", nargs="?", choices=["plan", "train", "publish"], help="default: all three")
    retrain.add_argument("--preset", default="", help="first apply this preset to params.yaml")
    retrain.add_argument("--params", default="", metavar="'KEY=VALUE ...'", help="then write these values into it")
    retrain.add_argument("--force", action="store_true", help="run all stages, even those that are up to date")
    retrain.add_argument(
        "--assume-data", action="store_true", help="in the plan, treat missing images as unchanged since dvc.lock"
    )
    limit = "interrupt after this time with exit code 75; the same command resumes"
    retrain.add_argument("--minutes", type=minutes, help=limit)
    places = ["github", "gitlab", "branch"]
    retrain.add_argument("--propose", choices=places, help="push the results as a branch, and ask to merge it there")
    retrain.add_argument("--remote", default="origin", help="git remote for the branch (default: origin)")
    retrain.set_defaults(handler=_retrain)


def _retrain(options: argparse.Namespace) -> int:
    from scm.retraining.cycle import Request, retrain

    request = Request(
        action=options.action,
        preset=options.preset,
        params=values_of(options.params),
        force=options.force,
        assume_data=options.assume_data,
        minutes=options.minutes,
        propose=options.propose,
        remote=options.remote,
    )
    return retrain(find_root(), request)


def values_of(text: str) -> dict[str, Any]:
    """Reads `KEY=VALUE KEY=VALUE`, values in YAML, quoted as a shell would have it."""
    from scm.base.yaml_files import parse_mapping

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
