"""`scm preset`: lists, shows, compares and applies the named sets of values in pipelines/presets."""

import argparse
import shutil
import sys

from scm.base.project import find_root
from scm.commands.arguments import command, factor


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm preset list", "scm preset diff folder", "scm preset apply folder")
    group = command(commands, "preset", None, "named sets of values for params.yaml", *examples)
    actions = group.add_subparsers(metavar="ACTION")
    summary = "list the presets with their data, sizes, times, methods and published figures"
    command(actions, "list", _list, summary, "scm preset list")
    for name, summary in (
        ("show", "print a preset's file"),
        ("diff", "print what applying a preset would change"),
        ("apply", "write a preset's values into params.yaml; comments and your own sections stay"),
    ):
        examples = (f"scm preset {name} digits", f"scm preset {name} folder{' --scale 0.1' if name != 'show' else ''}")
        action = command(actions, name, _one, summary, *examples)
        action.add_argument("name", help="a name from `scm preset list`")
        if name != "show":
            about = "scale the images of all trainings by this, and schedules, selection and evaluation with them"
            action.add_argument("--scale", type=factor, default=1.0, metavar="FACTOR", help=about)
        action.set_defaults(action=name)


def _list(_: argparse.Namespace) -> int:
    from scm.presets.table import entries, table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(table(entries(find_root()), width)))
    return 0


def _one(options: argparse.Namespace) -> int:
    from scm.presets.apply import apply, diff, scaled_preset, show

    root = find_root()
    if options.action == "show":
        print(show(root, options.name), end="")
    else:
        change = diff if options.action == "diff" else apply
        print("\n".join(change(root / "params.yaml", root, options.name, options.scale)) or "no change")
        for line in [] if options.scale == 1 else scaled_preset(root, options.name, options.scale).told:
            print(f"scm preset: {line}", file=sys.stderr)
    return 0
