"""`scm card`: prints a model's card."""

import argparse

from scm.commands.arguments import command


def add(commands: argparse._SubParsersAction) -> None:
    summary = "print the card of a model: data, training, figures, use and licence, in Markdown"
    card = command(commands, "card", _card, summary, "scm card", "scm card sct > card.md")
    card.add_argument("model", nargs="?", help="teacher or a student's method (default: publish.model of params.yaml)")


def _card(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.product.card import card
    from scm.product.packaging import content_of

    project = Project.open()
    content, _ = content_of(project, options.model or project.params.publish.model)
    print(card(project, content), end="")
    return 0
