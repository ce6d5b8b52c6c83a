"""The command `scm`. Only the standard library is imported until a sub-command runs, so that --help answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scm import __version__
from scm.base.files import disk_fault
from scm.commands import (
    card,
    compare,
    completion,
    edit,
    export,
    import_teacher,
    init,
    params,
    plan,
    preset,
    publish,
    retrain,
    run,
    sample,
    serve,
    status,
    study,
    sync,
    ui,
)
from scm.commands.arguments import Parser, shows_help
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError

COMMANDS = (
    init, params, preset, plan, run, status, compare, sample, edit, serve, export, card, import_teacher, study, sync,
    ui, publish, retrain, completion,
)  # fmt: skip
"""Modules whose `add` adds the parsers of their commands, in the order in which --help lists them."""

PIPELINE = ("alembic", "dvc", "kornia", "matplotlib", "pyarrow", "scipy", "sklearn", "sqlalchemy", "webdataset")
"""Packages that the extra `pipeline` brings; mlflow-skinny is MLflow without its database."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 1 for bad input, 75 for interrupted work that the command resumes."""
    try:
        options = _parse(list(sys.argv[1:] if arguments is None else arguments))
        code = options.handler(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"scm: error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"scm: interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PIPELINE:
            raise
        print(f"scm: error: this command needs {error.name}: run `pip install -e '.[pipeline]'`", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if (line := disk_fault(error)) is None:
            raise
        print(f"scm: error: {line}", file=sys.stderr)
        return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; those of `scm run` that are not its own become `passed_on`, in their order."""
    passed_on: list[str] = []
    if arguments[:1] == ["run"]:
        own, passed_on = run.divided(arguments[1:])
        arguments = ["run", *own]
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown)
    options.passed_on = passed_on
    return options


def parser() -> Parser:
    """The parser of the whole command."""
    whole = Parser(
        prog="scm",
        description="Few-step image generation with continuous-time consistency models (arXiv 2410.11081).",
        epilog="examples:\n  scm preset apply digits-smoke\n  scm run\n  scm sample --model scd --steps 2 -o grid.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action=_Version, help="print the version and the commit of this program")
    whole.set_defaults(handler=shows_help(whole), parser=whole, whole=whole)
    commands = whole.add_subparsers(metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return whole


class _Version(argparse._VersionAction):
    """Asks git only if the version is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        print(version())
        parser.exit()


def version() -> str:
    """This program's version, and its commit if its files lie in a git repository that knows them."""
    from scm.base.processes import own_environment, run_program

    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        try:
            return run_program("git", *arguments, cwd=folder, env=own_environment()).stdout.strip()
        except FileNotFoundError:
            return ""

    commit = git("describe", "--always", "--dirty", "--exclude=*") if git("ls-files", Path(__file__).name) else ""
    clean = commit.removesuffix("-dirty")
    changed = ", with uncommitted changes" if clean != commit else ""
    return f"scm {__version__}" + (f" (commit {clean}{changed})" if commit else "")


if __name__ == "__main__":
    sys.exit(main())
