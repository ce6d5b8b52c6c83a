"""`scm completion`: prints a script with which bash or zsh completes the command."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from scm.commands.arguments import command

IN_PROJECT = """
{function}() {{
  local names=$(
    until [ -e dvc.yaml ] || [ "$PWD" = / ]; do cd ..; done
    ls pipelines/{folder} 2>/dev/null | sed -n 's/[.]yaml$//p'
  )
  {answer}
}}
"""
"""A shell function that offers the names of the YAML files in a folder of the project around the current folder."""
ANSWERS = {"bash": 'compgen -W "$names" -- "$1"', "zsh": "compadd -- ${(f)names}"}
FOLDERS = {"_scm_presets": "presets", "_scm_studies": "studies"}
STAGES = ("prepare", "encode", "reference", "train_teacher", "report")
OF_MODELS = ("train_student", "select_ema", "evaluate")
"""Stages of dvc.yaml; the latter run once for each model, and train_student for each but the teacher."""


def add(commands: argparse._SubParsersAction) -> None:
    summary = "print a script that completes this command in a shell"
    examples = ('eval "$(scm completion bash)"    # in ~/.bashrc', 'eval "$(scm completion zsh)"     # in ~/.zshrc')
    examples = ("scm completion bash", *examples)
    completion = command(commands, "completion", _completion, summary, *examples)
    completion.add_argument("shell", choices=list(ANSWERS))


def _completion(options: argparse.Namespace) -> int:
    print(script(options.whole, options.shell), end="")
    return 0


def script(whole: argparse.ArgumentParser, shell: str) -> str:
    """The script for the parser of the whole command."""
    import shtab

    models = ["teacher", *sorted(path.stem for path in (Path(__file__).parents[1] / "methods").glob("[a-z]*.py"))]
    for parser, action in list(_arguments(whole)):
        if parser.prog == "scm run" and action.dest == "help":
            stages = [*STAGES, *(f"{stage}@{model}" for stage in OF_MODELS for model in models)]
            parser.add_argument(
                "targets", nargs="*", choices=[name for name in stages if name != "train_student@teacher"]
            )
        elif action.dest == "model":
            action.choices = models
        elif action.dest == "preset" or (action.dest == "name" and parser.prog.startswith("scm preset ")):
            action.complete = dict.fromkeys(ANSWERS, "_scm_presets")  # pyright: ignore[reportAttributeAccessIssue]
        elif action.dest == "name" and parser.prog == "scm study":
            action.complete = dict.fromkeys(ANSWERS, "_scm_studies")  # pyright: ignore[reportAttributeAccessIssue]
        elif action.type is Path:
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    functions = "".join(
        IN_PROJECT.format(function=name, folder=folder, answer=ANSWERS[shell]) for name, folder in FOLDERS.items()
    )
    return shtab.complete(whole, shell, preamble=functions)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """The arguments of a command and of all commands in it."""
    for action in parser._actions:
        yield parser, action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _arguments(below)
