"""`scm study`: runs and draws one of the studies in pipelines/studies."""

import argparse

from scm.base.project import find_root
from scm.commands.arguments import command


def add(commands: argparse._SubParsersAction) -> None:
    summary = "run a study, such as one of the paper's ablations, as DVC experiments over params.yaml, and draw it"
    study = command(commands, "study", _study, summary, "scm study", "scm study fig5a", "scm study fig5a --draw")
    study.add_argument("name", nargs="?", help="name of a file in pipelines/studies (default: list them)")
    study.add_argument("--list", action="store_true", help="list the studies")
    study.add_argument("--draw", action="store_true", help="draw the variants that have finished; run nothing")


def _study(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.study.run import draw_study, listing, run_study

    if options.name is None or options.list:
        print("\n".join(listing(find_root())))
        return 0
    return (draw_study if options.draw else run_study)(Project.open(), options.name)
