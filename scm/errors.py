"""The two ways in which a command ends early without being a bug."""

EXIT_INTERRUPTED = 75
"""Exit code of work that was interrupted and goes on when the same command is run again (EX_TEMPFAIL)."""


class UserError(Exception):
    """Bad input: one line that names the file, key or value and the remedy. Shown without a traceback, exit code 1."""


class Interrupted(Exception):
    """The work was asked to stop and has saved its state. Exit code 75: run the same command to go on."""
