"""What a result was made on and from: the machine and the commit."""

import os
import platform
import subprocess
from pathlib import Path


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
