"""What a result was made from and on: parameters, commit, machine, licence."""

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scm.base.documents import is_there
from scm.base.processes import last_line, own_environment, run_program
from scm.base.project import TEACHER
from scm.params import USERS_SECTIONS, Params, dump, flatten
from scm.params.project import Project
from scm.results.reading import read_run, run_path

OWN_LICENCE = "code: Apache-2.0; weights: trained here from scratch on your own data, whose terms apply"


def run_entry(
    project: Project, *, key: str, stage: str, item: str | None, name: str, started: float,
    params: Mapping[str, Any], deps: Mapping[str, str], chain: Mapping[str, Any], **extra: Any,
) -> dict[str, Any]:  # fmt: skip
    """The content of a run file (results/runs/*.json) of a stage that ends now.

    Args:
        key: fingerprint of the stage; params and deps are what it was computed from (`Inputs`).
        item: model of a stage that runs once for each model, e.g. "scd".
        name: what MLflow calls the run.
        started: unix seconds.
        chain: flat parameters of the stage and of everything upstream.
        extra: further entries, such as device and protocol.
    """
    ended, (commit, dirty) = max(started, time.time()), commit_of(project.root)  # the clock may have been set back
    return {
        "key": key,
        "stage": stage,
        "item": item,
        "name": name,
        "preset": project.params.preset,
        "seed": project.params.seed,
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(),
        "seconds": round(ended - started, 1),
        "cpu_seconds": round(sum(os.times()[:4]), 1),  # of this process and of its children that have ended
        "machine": machine_name(),
        "commit": commit,
        "dirty": dirty,
        "params_hash": params_hash(project.params),
        "params": dict(params),
        "deps": dict(deps),
        "chain": dict(chain),
        **extra,
    }


def chain(project: Project, item: str | None) -> dict[str, Any]:
    """Flat parameters of a stage and of everything upstream; for a student `item`, its effective settings."""
    params = project.params
    plain = dump(params)
    for name in ("preset", *USERS_SECTIONS, "student"):
        del plain[name]
    if item in params.student.methods:
        plain["student"] = params.student.lineage(str(item))
    teacher = run_path(project.root, "train_teacher")
    made_by = read_run(teacher)["params"] if is_there(teacher) else {}
    given = given_networks(project.root)
    if "imported.file" not in made_by:
        return {**flatten(plain), **given}
    del plain["teacher"], plain["network"]  # the teacher was not trained here
    return {**flatten(plain), **made_by, **given}


def given_networks(root: Path) -> dict[str, str]:
    """Origins of the networks that the teacher started from and is guided by, from the run files of their stages."""
    found: dict[str, str] = {}
    for stage in ("train_teacher", f"select_ema@{TEACHER}"):
        path = run_path(root, stage)
        for key, value in (read_run(path).get("given", {}) if is_there(path) else {}).items():
            found |= {f"{key}.{name}": text for name, text in value.items()}
    return found


def params_hash(params: Params) -> str:
    """First 12 digits of the hash of all parameters that a result can follow from."""
    plain = {key: value for key, value in dump(params).items() if key not in ("preset", *USERS_SECTIONS)}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def commit_of(root: Path) -> tuple[str, bool]:
    """The commit, and True if tracked files other than results differ from it; ("", True) outside git."""

    def git(*arguments: str) -> str | None:
        try:
            done = run_program("git", *arguments, cwd=root, env=own_environment())
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!dvc.lock")
    return git("rev-parse", "HEAD") or "", changes != ""


def git_fault(root: Path) -> str | None:
    """Why git does not tell the commit, and the remedy; None if it does, or if there is no repository."""
    if not in_repository(root):
        return None
    try:
        done = run_program("git", "rev-parse", "--verify", "--quiet", "HEAD", cwd=root, env=own_environment())
    except FileNotFoundError:
        return "git is missing: install it"
    if done.returncode == 0:
        return None
    if "safe.directory" in last_line(done):  # git's own remedy, which names the top folder
        return f"git does not read {root}, which belongs to another user: run `{last_line(done)}`"
    if not done.stderr.strip():
        return f"{root} has no commit yet: run `git add . && git commit`"
    return f"git does not tell the commit of {root} ({last_line(done)}): see what `git status` says there"


def in_repository(root: Path) -> bool:
    """True if the folder or one above holds a git repository, or a file that leads to one, as in a worktree."""
    for entry in (folder / ".git" for folder in (root, *root.parents)):
        if entry.is_file():
            return (entry.parent / entry.read_text(errors="replace").removeprefix("gitdir:").strip()).is_dir()
        if entry.is_dir():
            return True
    return False


def machine_name() -> str:
    """System, processor and number of usable cores, e.g. "Linux x86_64, Some CPU, 2 cores"."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"^model name.*?:\s*(.*\S)", info.read_text(), re.MULTILINE)
        processor = named[1] if named else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {processor}, {cores} cores"


def licence_of(chain: Mapping[str, Any]) -> str:
    """A note on the terms of a model's weights, which follow from the networks that it was made from."""
    origins = {
        "imported": "made from the imported teacher",
        "start": "made from a teacher that started from",
        "guide": "made from a teacher that is guided by",
    }
    found = [
        (chain.get(f"{key}.licence"), f"{origin} {chain[f'{key}.file']}")
        for key, origin in origins.items()
        if f"{key}.file" in chain
    ]
    if not found:
        return OWN_LICENCE
    terms, origin = min(found, key=lambda each: each[0] is None)  # the first whose terms are known
    return f"code: Apache-2.0; weights: {origin}, so under {terms or 'whatever terms its owner states'}"
