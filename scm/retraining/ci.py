"""What a job tells its CI service: values for other jobs, and a summary for people. Elsewhere nobody is told."""

import os
from pathlib import Path


def output(name: str, value: str) -> None:
    """A value, of one line, that a later step or job reads."""
    assert "\n" not in value
    _append("GITHUB_OUTPUT", f"{name}={value}\n")


def summary(markdown: str) -> None:
    """Markdown that the page of the run shows."""
    _append("GITHUB_STEP_SUMMARY", markdown.rstrip("\n") + "\n\n")


def _append(variable: str, text: str) -> None:
    name = os.environ.get(variable)
    if name:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
