"""`scm retrain`: one round of retraining, which a schedule starts."""

import argparse
import shlex
from dataclasses import fields
from typing import Any

from scm.base.project import find_root
from scm.commands.arguments import command, minutes
from scm.errors import UserError


def add(commands: argparse._SubParsersAction) -> None:
    summary = "plan, train what is out of date and publish the model if it is better; made for schedules"
    examples = ("scm retrain train --minutes 330", "scm retrain publish --propose github")
    examples = ("scm retrain", 'scm retrain --params "teacher.images=1Mi seed=1"', *examples)
    retrain = command(commands, "retrain", _retrain, summary, *examples)
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


def _retrain(options: argparse.Namespace) -> int:
    from scm.retraining.cycle import Request, retrain

    asked = {field.name: getattr(options, field.name) for field in fields(Request)}
    return retrain(find_root(), Request(**{**asked, "params": values_of(options.params)}))


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
