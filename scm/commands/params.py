"""`scm params`: checks or prints the parameters, and gives params.yaml its comments and layout again."""

import argparse
import sys
from pathlib import Path

from scm.commands.arguments import command
from scm.errors import UserError, did_you_mean

DEFAULT = "default: the project's params.yaml"


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm params check", "scm params show student")
    group = command(commands, "params", None, "check, show or tidy params.yaml", *examples)
    actions = group.add_subparsers(metavar="ACTION")
    examples = ("scm params check", "scm params check other.yaml")
    check = command(actions, "check", _check, "check that params.yaml is valid", *examples)
    check.add_argument("file", nargs="?", type=Path, help=DEFAULT)
    examples = ("scm params show", "scm params show teacher.lr", "scm params show student.scd --file other.yaml")
    show = command(actions, "show", _show, "print the values, one per line", *examples)
    show.add_argument("key", nargs="?", default="", help="print only this key and the keys below it")
    show.add_argument("--file", type=Path, help=DEFAULT)
    about = "give params.yaml the comments and the layout of git's version, after DVC has written it; the values stay"
    tidy = command(actions, "tidy", _tidy, about, "scm params tidy", "scm params tidy --of HEAD~3")
    tidy.add_argument("--of", default="HEAD", metavar="REV", help="the commit whose layout it takes (default: HEAD)")


def _check(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load
    from scm.params.notes import notes
    from scm.params.project import Project
    from scm.pipeline.launcher import command_of
    from scm.report.data import classes_of

    path = _file(options.file)
    params = load(path)
    Project(path.parent, params).check()
    if params.runtime.launcher is not None:
        command_of(params.runtime.launcher, path.parent)
    print(f"{path}: ok ({len(flatten(dump(params)))} values, preset {params.preset})")
    for note in notes(params, classes_of(path.parent)):
        print(f"scm params: {note}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load

    path = _file(options.file)
    values = flatten(dump(load(path)))
    chosen = {key: value for key, value in values.items() if f"{key}.".startswith(f"{options.key}.".lstrip("."))}
    if not chosen:
        known = dict.fromkeys(key.rsplit(".", parts)[0] for key in values for parts in range(key.count(".") + 1))
        meant = " ".join(filter(None, (did_you_mean(options.key, known), "`scm params show` prints them all")))
        raise UserError(f"{path}: {options.key}: no such key; {meant}")
    for key, value in chosen.items():
        print(f"{key}: {_as_yaml(value)}")
    return 0


def _tidy(options: argparse.Namespace) -> int:
    from scm.base.files import write_text
    from scm.base.project import find_root
    from scm.base.yaml_files import parse_mapping, read_text
    from scm.params import validate
    from scm.pipeline.dvc_command import git
    from scm.presets.changes import changes
    from scm.presets.editing import laid_out
    from scm.presets.overlays import RESTORE

    path = find_root() / "params.yaml"
    text, name = read_text(path, RESTORE), f"{options.of}:./{path.name}"
    values, layout = parse_mapping(text, str(path)), git(path.parent, "show", "--end-of-options", name).stdout
    validate(values, str(path))
    tidied = laid_out(layout, values, name)
    if tidied != text:
        write_text(path, tidied)
    told = changes(parse_mapping(layout, name), values)
    print(*told, f"{path}: laid out as in {options.of}; values that differ from it: {len(told)}", sep="\n")
    return 0


def _file(given: Path | None) -> Path:
    from scm.base.project import find_root

    return given or find_root() / "params.yaml"


def _as_yaml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
