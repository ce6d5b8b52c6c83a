"""What a result was made on and from: the machine and the commit."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scm.base.files import read_json
from scm.params import USERS_SECTIONS, Params, dump, flatten
from scm.results.reading import run_path


def machine_name() -> str:
    """System, processor and number of usable cores, e.g. "Linux x86_64, Some CPU, 2 cores"."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {processor}, {cores} cores"


def commit_of(root: Path) -> tuple[str, bool]:
    """The commit and whether tracked files, other than results, differ from it; ("", True) outside git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    own = (":!results", ":!dvc.lock")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    return commit or "", changes != ""


def chain(root: Path, params: Params, item: str | None) -> dict[str, Any]:
    """Flat parameters of a stage and of everything upstream; those of a student `item` are its effective settings."""
    plain = dump(params)
    for name in ("preset", *USERS_SECTIONS, "student"):
        del plain[name]
    if item in params.student.methods:
        plain["student"] = params.student.lineage(str(item))
    teacher = run_path(root, "train_teacher")
    made_by = read_json(teacher)["params"] if teacher.exists() else {}
    if "imported.file" not in made_by:
        return flatten(plain)
    del plain["teacher"], plain["network"]  # the teacher was not trained here
    return {**flatten(plain), **made_by}


def params_hash(params: Params) -> str:
    """First 12 digits of the hash of all parameters that a result can follow from."""
    plain = {key: value for key, value in dump(params).items() if key not in ("preset", *USERS_SECTIONS)}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


OWN_LICENCE = "code: Apache-2.0; weights: trained here from nothing, on your own data, whose terms apply"


def licence_of(chain: Mapping[str, Any]) -> str:
    """A note for those who take the model: what its teacher was made from, by the parameters of its import."""
    file = chain.get("imported.file")
    if file is None:
        return OWN_LICENCE
    terms = chain.get("imported.licence") or "whatever terms its owner states"
    return f"code: Apache-2.0; weights: made from the imported teacher {file}, so under {terms}"
