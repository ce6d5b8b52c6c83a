"""`scm compare`: this result beside an earlier one, and whether it is better by more than the noise."""

import argparse
import sys
from pathlib import Path

from scm.commands.arguments import command
from scm.errors import UserError, printable


def add(commands: argparse._SubParsersAction) -> None:
    summary = "compare the results with those of a commit, an experiment or a registered version, and show both"
    examples = ("scm compare", "scm compare HEAD~3", "scm compare @champion", "scm compare v1 my-experiment --markdown")
    compare = command(commands, "compare", _compare, summary, *examples)
    what = "commit, branch, tag, experiment, @champion or models:/NAME/3 (default: the last other results); "
    what += "of two, the second is compared with the first"
    compare.add_argument("revisions", nargs="*", metavar="REV", help=what)
    compare.add_argument("-o", "--out", type=Path, help="the page to write (default: results/compare.html)")
    compare.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")


def _compare(options: argparse.Namespace) -> int:
    from scm.base.files import write_text
    from scm.comparison.comparison import compared
    from scm.comparison.page import FILE, lines, markdown, page
    from scm.params.project import Project

    if len(options.revisions) > 2:
        raise UserError(f"{len(options.revisions)} revisions: name one, or two to compare with each other")
    project = Project.open()
    out = project.root / FILE if options.out is None else options.out
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {out}: the page is HTML; give a name that ends in .html")
    with compared(project, options.revisions) as comparison:
        try:
            write_text(out, page(comparison))
        except OSError as error:
            raise UserError(f"-o {out}: cannot be written ({error.strerror}); choose another place") from None
        if options.markdown:
            print(markdown(comparison), end="")
        else:
            print("\n".join(map(printable, lines(comparison))))
    print(f"{out} shows both sides' samples", file=sys.stderr)
    return 0
