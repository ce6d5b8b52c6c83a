"""torchrun with the stages' exit codes: `python -m scm.pipeline.torchrun` takes torchrun's arguments.

torchrun itself ends with 1 and a stack whenever one of its processes does not end with 0. This ends with 75 if all of
them were asked to stop, and with 1 otherwise, where the processes have said why.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from scm.base.processes import STOPS, on_stop
from scm.errors import EXIT_INTERRUPTED, printable
from scm.pipeline.launcher import FOR_TORCHRUN

REPEATING = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")
"""Loggers that report each signal and each end of a process."""
MESSAGE = "interrupted: run the same command to go on"


def main(arguments: Sequence[str]) -> int:
    """Runs torchrun and returns its exit code."""
    on_stop(_stop)  # until torchrun has processes, and handlers of its own
    os.environ.update({name: os.environ.get(name, value) for name, value in FOR_TORCHRUN.items()})
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    for name in REPEATING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(arguments))
    except SignalException:
        print(MESSAGE, file=sys.stderr)
        return EXIT_INTERRUPTED
    except ChildFailedError as error:
        return code_of(error.failures)
    except RendezvousError as error:
        problem = f"error: torchrun's nodes have not met: {error}"
        print(printable(f"{problem}: compare --nnodes, --rdzv-endpoint and --rdzv-id on all nodes"), file=sys.stderr)
        return 1
    return 0


def code_of(failures: Mapping[int, Any]) -> int:
    """The exit code that stands for those of some ranks, of which none is 0; a rank that was killed is named.

    Args:
        failures: torchrun's ProcessFailure of each rank.
    """
    asked = {EXIT_INTERRUPTED, *(-number for number in STOPS)}  # torchrun asks all to stop when one has ended
    if all(failure.exitcode in asked for failure in failures.values()):
        return EXIT_INTERRUPTED
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode not in asked:
            by = f"process {failure.pid} was ended by {failure.signal_name()}"
            print(f"error: rank {rank} ({by}): look for a full memory in the machine's log", file=sys.stderr)
    return 1


def _stop(number: int, frame: FrameType | None) -> None:
    print(MESSAGE, file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
