"""The exchange of a job with its CI service: values for other jobs, a summary for people, the address of its files.

Outside a CI service these functions do nothing.
"""

import os
from pathlib import Path


def output(name: str, value: str) -> None:
    """Hands a one-line value to later steps and jobs."""
    assert "\n" not in value
    _append("GITHUB_OUTPUT", f"{name}={value}\n")


def summary(markdown: str) -> None:
    """Adds Markdown to the page of the run."""
    _append("GITHUB_STEP_SUMMARY", markdown.rstrip("\n") + "\n\n")


def artifacts() -> str | None:
    """Address of the page that offers this job's uploaded files; None outside a CI service."""
    own = os.environ
    if own.get("GITHUB_RUN_ID"):
        return f"{own['GITHUB_SERVER_URL']}/{own['GITHUB_REPOSITORY']}/actions/runs/{own['GITHUB_RUN_ID']}"
    if own.get("CI_JOB_URL"):
        return f"{own['CI_JOB_URL']}/artifacts/browse"
    return own.get("CI_PIPELINE_URL") or None


def _append(variable: str, text: str) -> None:
    name = os.environ.get(variable)
    if name:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
