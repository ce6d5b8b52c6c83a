"""The command `scm`. Only the standard library is imported until a sub-command runs, so that --help answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence

from scm.base.files import disk_fault
from scm.commands import (
    card,
    compare,
    import_teacher,
    params,
    plan,
    preset,
    publish,
    retrain,
    run,
    sample,
    serve,
    study,
    sync,
    ui,
)
from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError

COMMANDS = (params, preset, plan, run, compare, sample, serve, card, import_teacher, study, sync, ui, publish, retrain)
"""Modules whose `add` adds the parsers of their commands, in the order in which --help lists them."""


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
        passed_on = [argument for argument in arguments[1:] if argument not in run.OWN_OPTIONS]
        arguments = ["run", *(argument for argument in arguments[1:] if argument in run.OWN_OPTIONS)]
    parser = argparse.ArgumentParser(
        prog="scm",
        description="Few-step image generation with continuous-time consistency models (arXiv 2410.11081).",
        epilog="examples:\n  scm preset apply digits-smoke\n  scm run\n  scm sample --model scd --steps 2 -o grid.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    options = parser.parse_args(arguments)
    options.passed_on = passed_on
    return options


if __name__ == "__main__":
    sys.exit(main())
