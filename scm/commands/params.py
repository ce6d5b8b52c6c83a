"""`scm params`: checks or prints the parameters."""

import argparse
from pathlib import Path

from scm.commands.arguments import command
from scm.errors import UserError

DEFAULT = "default: the project's params.yaml"


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm params check", "scm params show student")
    group = command(commands, "params", None, "check or show params.yaml", *examples)
    actions = group.add_subparsers(metavar="ACTION", required=True)
    examples = ("scm params check", "scm params check other.yaml")
    check = command(actions, "check", _check, "check that params.yaml is valid", *examples)
    check.add_argument("file", nargs="?", type=Path, help=DEFAULT)
    examples = ("scm params show", "scm params show teacher.lr", "scm params show student.scd --file other.yaml")
    show = command(actions, "show", _show, "print the values, one per line", *examples)
    show.add_argument("key", nargs="?", default="", help="print only this key and the keys below it")
    show.add_argument("--file", type=Path, help=DEFAULT)


def _check(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load
    from scm.params.project import Project
    from scm.pipeline.launcher import command_of

    path = _file(options.file)
    params = load(path)
    Project(path.parent, params).check()
    if params.runtime.launcher is not None:
        command_of(params.runtime.launcher, path.parent)
    print(f"{path}: ok ({len(flatten(dump(params)))} values, preset {params.preset})")
    return 0


def _show(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load

    path = _file(options.file)
    values = flatten(dump(load(path)))
    chosen = {key: value for key, value in values.items() if f"{key}.".startswith(f"{options.key}.".lstrip("."))}
    if not chosen:
        raise UserError(f"{path}: {options.key}: no such key; `scm params show` prints them all")
    for key, value in chosen.items():
        print(f"{key}: {_as_yaml(value)}")
    return 0


def _file(given: Path | None) -> Path:
    from scm.base.project import find_root

    return given or find_root() / "params.yaml"


def _as_yaml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
