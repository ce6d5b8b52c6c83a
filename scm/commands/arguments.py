"""What the commands share: how a parser is laid out, and the types of their arguments."""

import argparse
from collections.abc import Callable

MINUTES_OF_A_YEAR = 525_600


Handler = Callable[[argparse.Namespace], int]


def command(
    commands: argparse._SubParsersAction, name: str, handler: Handler | None, summary: str, *examples: str
) -> argparse.ArgumentParser:
    """Adds the parser of a command, or of one action of a command, whose --help ends with examples."""
    layout = argparse.RawDescriptionHelpFormatter
    description, epilog = f"{summary[0].upper()}{summary[1:]}.", "\n  ".join(["examples:", *examples])
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=layout)
    parser.set_defaults(handler=handler)
    return parser


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


def names(text: str) -> list[str]:
    """Names separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names or numbers such as 3,7, not {text!r}")
    return found
