"""This process among several: the variables by which torchrun, or a cluster's operator, numbers processes.

Only torchrun's are believed, which sets TORCHELASTIC_RUN_ID. Kubeflow's operator sets RANK and WORLD_SIZE in every pod,
and Kubeflow's trainer sets PET_NNODES: in a lone pod they mean nothing, and in several they ask for torchrun.
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

NUMBERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
OF_TORCHRUN = ("PET_", "TORCHELASTIC_")
"""Beginnings of further variables: torchrun's own options, and what it tells its processes."""
PEER_ENDED = re.compile(
    r"gloo.*(Connection closed by peer|Connection reset by peer|Broken pipe)|ncclRemoteError|remote process exited"
    r"|failed to recv, got 0 bytes",
    re.DOTALL,
)
"""Parts of the errors of gloo, NCCL and torch's store when a process that takes part has ended."""
REMEDY = "start it with torchrun, or unset them and set runtime.processes"


def among_several(environment: MutableMapping[str, str]) -> bool:
    """True if this process is one of several that somebody else has started.

    The variables of a lone process are removed, so that nothing later takes them for torchrun's.

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
    by_dvc = "DVC_ROOT" in environment and "SCM_LAUNCHED" not in environment
    if world > 1 and by_dvc:
        problem = f"{said} say that this is one of {world} processes, but DVC runs a stage only once"
        raise UserError(f"{problem}: unset them, and set runtime.launcher (docs/scale.md)")
    nodes = environment.get("PET_NNODES", "1")
    if not by_torchrun and nodes not in ("1", "1:1"):
        raise UserError(f"PET_NNODES = {nodes} is meant for torchrun, which did not start this: {REMEDY}")
    if not by_torchrun and world > 1:
        raise UserError(f"{said} are set, but not by torchrun: {REMEDY}")
    if by_torchrun and not by_dvc:
        return True
    for name in numbering(environment):
        del environment[name]
    return False


def numbering(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that number processes; a torchrun of our own must not inherit them."""
    return [name for name in environment if name in NUMBERS or name.startswith(OF_TORCHRUN)]


def own_threads(threads: int | None) -> int:
    """Threads of this process: `runtime.threads`, or its share of the cores that the system allows it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or max(1, cores // _number(os.environ, "LOCAL_WORLD_SIZE", 1))


def end_after_another(error: RuntimeError) -> None:
    """Ends this process in one line if the error came because another one had ended, which says why itself."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and PEER_ENDED.search(str(error)):
        why = "another process has ended, as it explains, or cannot be reached"
        line = f"error: rank {os.environ.get('RANK', '0')} ends: {why}"
        print(line, file=sys.stderr, flush=True)
        tell_torchrun(line, after_another=True)
        os._exit(1)  # the group's threads may abort an orderly end


def tell_torchrun(line: str, after_another: bool = False) -> None:
    """Leaves the line where torchrun looks for it, so that its own report ends with the reason.

    Args:
        line: what this process has printed.
        after_another: this process ended because another one had; torchrun, which compares whole seconds and shows
            the first, gets a later one.
    """
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        told = {"message": line, "extraInfo": {"timestamp": str(int(time.time()) + after_another)}}
        with suppress(OSError):  # the line has been printed
            Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(f"{name} = {text[:40]} in the environment is no whole number: {REMEDY}")
    return int(text)
