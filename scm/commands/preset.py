"""`scm preset`: lists, shows, compares and applies the named sets of values in pipelines/presets."""

import argparse

from scm.base.project import find_root
from scm.commands.arguments import command


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm preset list", "scm preset diff folder", "scm preset apply folder")
    group = command(commands, "preset", "named sets of values for params.yaml", *examples)
    actions = group.add_subparsers(metavar="ACTION", required=True)
    summary = "list the presets with their data, sizes, methods and published figures"
    command(actions, "list", summary, "scm preset list").set_defaults(handler=_list)
    for name, summary, handler in (
        ("show", "print a preset's file", _show),
        ("diff", "print what applying a preset would change", _diff),
        ("apply", "write a preset's values into params.yaml; comments and your own sections stay", _apply),
    ):
        action = command(actions, name, summary, f"scm preset {name} digits", f"scm preset {name} folder")
        action.add_argument("name", help="a name from `scm preset list`")
        action.set_defaults(handler=handler)


def _list(_: argparse.Namespace) -> int:
    from scm.presets.table import entries, table

    print("\n".join(table(entries(find_root()))))
    return 0


def _show(options: argparse.Namespace) -> int:
    from scm.presets.apply import show

    print(show(find_root(), options.name), end="")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from scm.presets.apply import diff

    root = find_root()
    print("\n".join(diff(root / "params.yaml", root, options.name)) or "no change")
    return 0


def _apply(options: argparse.Namespace) -> int:
    from scm.presets.apply import apply

    root = find_root()
    print("\n".join(apply(root / "params.yaml", root, options.name)) or "no change")
    return 0
