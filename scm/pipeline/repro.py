"""Runs the program `dvc` without its advice for afterwards: `python repro.py DVC repro ...`.

After each run DVC tells in seven lines to add dvc.lock to git, to have that done automatically, and to push. `scm run`
says instead where the report is. This needs the standard library alone, as it runs before dvc. When the whole pipeline
has run, it records in the same process, which has imported dvc by then, that all is up to date.
"""

import logging
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

ADVICE = ("To track the changes with git, run:", "To enable auto staging, run:")
"""Beginnings of what DVC's logger tells."""
PRINTED = "Use `dvc push` to send your updates to remote storage."
"""What DVC prints."""
LOGGER = "dvc.repo.scm_context"


class Output:
    """Standard output without `PRINTED` and the end of its line."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left_out = stream, False

    def write(self, text: str) -> int:
        left_out, self._left_out = self._left_out, text.rstrip("\n") == PRINTED and not text.endswith("\n")
        if text.rstrip("\n") == PRINTED or (left_out and text == "\n"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_wanted(record: logging.LogRecord) -> bool:
    return not str(record.msg).lstrip().startswith(ADVICE)


def main(arguments: list[str]) -> None:
    logging.getLogger(LOGGER).addFilter(is_wanted)
    sys.argv, sys.stdout = arguments, Output(sys.stdout)
    if sys.path[0] == str(Path(__file__).parent):
        sys.path[0] = str(Path(arguments[0]).parent)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if not end.code and arguments[1:] == ["repro"]:
            remember()
        raise


def remember() -> None:
    """Records that all is up to date. The run is complete, so neither a signal nor a fault in here makes it fail."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        from scm.pipeline import unchanged

        unchanged.remember(Path.cwd())
    except KeyboardInterrupt:
        pass
    except Exception as error:
        print(f"scm run: the next run will look at all files again ({error!r})", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
