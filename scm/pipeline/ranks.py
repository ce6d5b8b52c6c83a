"""This process among several: the variables by which torchrun, or a cluster's operator, numbers processes.

torchrun says so by TORCHELASTIC_RUN_ID. Kubeflow's operator sets RANK and WORLD_SIZE in every pod, and Kubeflow's
trainer sets PET_NNODES: in a lone pod they mean nothing, and among several pods each starts one process.
"""

import json
import os
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from scm.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
OF_TORCHRUN = "PET_"
"""Beginning of the variables that stand for torchrun's own options."""
PEER_ENDED = re.compile(
    r"gloo.*(Connection closed by peer|Connection reset by peer|Broken pipe)|ncclRemoteError|remote process exited"
    r"|failed to recv, got 0 bytes",
    re.DOTALL,
)
"""Parts of the errors of gloo, NCCL and torch's store when a process that takes part has ended."""
REMEDY = "start it with torchrun, or unset them and set runtime.processes"


def among_several(environment: MutableMapping[str, str], processes: int) -> bool:
    """True if this process is one of several that somebody else has started.

    The variables of a lone process are removed, so that nothing later takes them for torchrun's.

    Args:
        processes: `runtime.processes`.

    Raises:
        UserError: the variables contradict each other, or ask for what a stage cannot do.
    """
    if "SCM_STARTED" in environment:
        return "WORLD_SIZE" in environment
    rank, world = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
    by_torchrun, said = "TORCHELASTIC_RUN_ID" in environment, f"RANK = {rank} and WORLD_SIZE = {world}"
    if not 0 <= rank < world:
        raise UserError(f"{said} contradict each other: {REMEDY}")
    local, here = _number(environment, "LOCAL_RANK", 0), _number(environment, "LOCAL_WORLD_SIZE", 1)
    if world > 1 and "LOCAL_WORLD_SIZE" in environment and not local < here <= world:
        told = f"LOCAL_RANK = {local}, LOCAL_WORLD_SIZE = {here}"
        raise UserError(f"{told}, {said} contradict each other: {REMEDY}")
    if world > 1 and "DVC_ROOT" in environment:
        problem = f"{said} say that this is one of {world} processes, but DVC runs a stage only once"
        raise UserError(f"{problem}: unset them, or start each stage without DVC (docs/data.md)")
    if not by_torchrun:
        _check_pods(environment, said, world, processes)
    if world > 1 or (by_torchrun and "DVC_ROOT" not in environment):
        return True
    for name in numbering(environment):
        del environment[name]
    return False


def numbering(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that number processes; a torchrun of our own must not inherit them."""
    return [name for name in environment if name in (*NUMBERS, *MEETING_PLACE) or name.startswith(OF_TORCHRUN)]


def own_threads(threads: int | None) -> int:
    """Threads of this process: `runtime.threads`, or its share of the cores that the system allows it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or max(1, cores // _number(os.environ, "LOCAL_WORLD_SIZE", 1))


def end_after_another(error: RuntimeError) -> None:
    """Ends this process in one line if the error came because another one had ended, which says why itself."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and PEER_ENDED.search(str(error)):
        why = "another process has ended, as it explains, or cannot be reached"
        print(f"error: rank {os.environ.get('RANK', '0')} ends: {why}", file=sys.stderr, flush=True)
        os._exit(1)  # the group's threads may abort an orderly end


def tell_torchrun(line: str) -> None:
    """Leaves the line where torchrun looks for it, so that its own report ends with the reason."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):  # the line has been printed
            Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


def _check_pods(environment: Mapping[str, str], said: str, world: int, processes: int) -> None:
    """Refuses what several processes that torchrun has not started cannot do."""
    nodes = environment.get("PET_NNODES", "1")
    if nodes not in ("1", "1:1"):
        raise UserError(f"PET_NNODES = {nodes} is meant for torchrun, which did not start this: {REMEDY}")
    if world == 1:
        return
    missing = [name for name in MEETING_PLACE if name not in environment]
    if missing:
        raise UserError(f"{said} are set without {' and '.join(missing)}, and not by torchrun: {REMEDY}")
    if processes > 1:
        problem = f"{said} are set, but not by torchrun, and so stand for one process each"
        raise UserError(f"{problem}, while runtime.processes = {processes}: start it with torchrun, or write 1")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(f"{name} = {text[:40]} in the environment is no whole number: {REMEDY}")
    return int(text)
