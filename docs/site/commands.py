"""Hook of mkdocs: the reference of the commands, made from their parsers."""

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from scm import cli

PAGE = "reference/commands.md"
COLUMNS = {"COLUMNS": "100"}
"""The width of usages, whatever terminal builds the site."""
OPENING = """# Commands

`scm COMMAND --help` prints the same.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, PAGE, content=reference()))
    return files


def reference() -> str:
    with mock.patch.dict(os.environ, COLUMNS):
        return "\n".join([OPENING, *(section(parser) for parser in parsers(cli.parser()) if parser.prog != "scm")])


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parser and those of its commands, in the order of --help."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def section(parser: argparse.ArgumentParser) -> str:
    """The command's summary, usage, arguments and examples."""
    level = "##" if parser.prog.count(" ") == 1 else "###"
    usage = parser.format_usage().removeprefix("usage: ").strip()
    rows = [row(action) for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    table = ["| argument | meaning |", "|---|---|", *rows, ""] if rows else []
    _, _, examples = (parser.epilog or "").partition("\n")
    shown = ["```sh", *(line.strip() for line in examples.splitlines()), "```", ""] if examples else []
    return "\n".join(
        [f"{level} {parser.prog}", "", parser.description or "", "", "```text", usage, "```", "", *table, *shown]
    )


def row(action: argparse.Action) -> str:
    """A row of the table; the names of a group's commands are in its help."""
    if isinstance(action, argparse._SubParsersAction):
        names = ", ".join(f"`{name}`" for name in action.choices)
        return f"| {names} | see below |"
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    given = ", ".join(action.option_strings) or action.dest
    shown = f"{given} {value}".strip() if action.option_strings else given
    text = (action.help or "").replace("%%", "%").replace("|", "\\|")
    choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
    return f"| `{shown}` | {text}{choices} |"
