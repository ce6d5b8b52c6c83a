"""What the commands share: how a parser is laid out, and the types of their arguments."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from scm.errors import did_you_mean

MINUTES_OF_A_YEAR = 525_600
SMALLEST_FACTOR, LARGEST_FACTOR = 1e-6, 1e6


class Parser(argparse.ArgumentParser):
    """A parser that says which command, choice or option was probably meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = None if action.choices is None else list(action.choices)
        if choices is not None and value not in choices:
            remedy = did_you_mean(str(value), map(str, choices)) or f"choose from {', '.join(map(str, choices))}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({remedy})")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Ends the command because of arguments that this parser does not know."""
        meant = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
        self.error(f"unrecognized arguments: {' '.join(unknown)}{f' ({meant})' if meant else ''}")


Handler = Callable[[argparse.Namespace], int]


def command(
    commands: argparse._SubParsersAction, name: str, handler: Handler | None, summary: str, *examples: str
) -> argparse.ArgumentParser:
    """Adds the parser of a command, or of one action of a command, whose --help ends with examples.

    Without a handler, the command shows its help.
    """
    layout = argparse.RawDescriptionHelpFormatter
    description, epilog = f"{summary[0].upper()}{summary[1:]}.", "\n  ".join(["examples:", *examples])
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=layout)
    parser.set_defaults(handler=handler or shows_help(parser), parser=parser)
    return parser


def shows_help(parser: argparse.ArgumentParser) -> Handler:
    """A handler for a command that names only a group of commands."""

    def handler(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    return handler


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def version(text: str) -> str:
    """The number of a version, in the form that MLflow uses for it."""
    return str(whole(text))


def minutes(text: str) -> float:
    """A time limit of at most a year."""
    number = float(text)
    if not 0 < number <= MINUTES_OF_A_YEAR:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {MINUTES_OF_A_YEAR:,}, not {text}")
    return number


def factor(text: str) -> float:
    """By what budgets are scaled."""
    number = float(text)
    if not SMALLEST_FACTOR <= number <= LARGEST_FACTOR:
        limits = f"{SMALLEST_FACTOR:.6f} and {LARGEST_FACTOR:,.0f}"
        raise argparse.ArgumentTypeError(f"must be between {limits}, such as 0.1, not {text}")
    return number


def names(text: str) -> list[str]:
    """Names separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names or numbers such as 3,7, not {text!r}")
    return found
