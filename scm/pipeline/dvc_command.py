"""The commands `dvc` (of this Python's environment) and `git` on a project, and what DVC's remotes bring and take."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.base.processes import last_line, own_environment, run_program
from scm.errors import UserError
from scm.results.fingerprint import check_files, outputs_of_stages
from scm.results.provenance import in_repository

WORDS_SHOWN = 4
"""Words of a failed command that its error quotes."""


@dataclass(frozen=True)
class Remote:
    """The default remote: its name, and its address as seen from any folder."""

    name: str
    address: str


def remote(root: Path) -> Remote | None:
    """The project's default remote; None if it has none."""
    name = dvc(root, "config", "core.remote", check=False).stdout.strip()
    if not name:
        return None
    address = dvc(root, "config", f"remote.{name}.url", check=False).stdout.strip()
    if address:
        return Remote(name, address)
    raise UserError(f"{root / '.dvc/config'}: core.remote = {name}: no such remote; `dvc remote add -d {name} ADDRESS`")


def bring(root: Path, targets: Sequence[str], source: Remote | None) -> list[str]:
    """Restores outputs as dvc.lock records them, from the cache or else from the remote.

    Args:
        targets: outputs, or folders; a folder stands for all outputs in it.

    Returns:
        Targets that dvc.lock does not know, and outputs that neither the cache nor the remote has; all outputs if DVC
        failed without saying which.
    """
    # dvc.lock also keeps stages that dvc.yaml no longer has.
    stages = set(dvc(root, "stage", "list", "--name-only").stdout.split())
    known = [path for name, paths in outputs_of_stages(root).items() if name in stages for path in paths]
    found = {target: [path for path in known if f"{path}/".startswith(f"{target}/")] for target in targets}
    wanted = sorted({path for paths in found.values() for path in paths})
    done = not wanted or not dvc(root, "checkout", "--force", *wanted, check=False).returncode
    if not done and source is not None:
        done = not dvc(root, "pull", "--force", "--remote", source.name, *wanted, check=False).returncode
    unknown = [target for target, paths in found.items() if not paths]
    missing = [path for path in wanted if not (root / path).exists()]
    return [*unknown, *(missing if done or missing else wanted)]


def bring_images(root: Path, path: str, source: Remote | None) -> None:
    """Fetches the images that a .dvc file beside `path` records, if there is such a file.

    `dvc repro` would accept older images that lie there, and write their hash into that file.
    """
    path = os.path.normpath(path)
    file = f"{path}.dvc"
    if not (root / file).is_file():
        return
    done = dvc(root, *(["checkout"] if source is None else ["pull", "--remote", source.name]), file, check=False)
    if "unsaved files" in done.stderr:
        remedy = f"`dvc add {path}` and commit {file} to train on them, or take them out"
        raise UserError(f"{root / path} holds files that {file} does not know: {remedy}")
    if done.returncode:
        place = "DVC's cache" if source is None else f"the remote {source.name}"
        remedy = "`dvc push` them from a machine that has them"
        raise UserError(f"{file}: its images do not come from {place} ({reason_of(done)}): {remedy}")


def check_repository(root: Path) -> None:
    """Checks that DVC can work in the project's folder.

    Raises:
        UserError: its path has braces, which DVC takes for a format; or there is no git repository, which DVC asks for
            unless it is told to do without.
    """
    if {"{", "}"} & set(str(root)):
        raise UserError(f"DVC fails in a folder whose path has braces: rename {root}")
    if in_repository(root):
        return
    if dvc(root, "config", "core.no_scm", check=False).stdout.strip().lower() in ("", "false"):
        problem = f"{root} is in no git repository, as after the download of a .zip"
        raise UserError(f"{problem}: run `git init` there, or `dvc config --local core.no_scm true` to do without git")


def check_writable(root: Path) -> None:
    """Raises UserError if DVC cannot write its own files."""
    own = root / ".dvc"
    if own.exists() and not os.access(own, os.W_OK):
        raise UserError(f"{own} cannot be written: mount it writable, or change its owner, and run the same again")


def push(root: Path) -> None:
    """Uploads what the remote lacks, run cache included, so that another machine need not repeat finished stages."""
    dvc(root, "push", "--run-cache")


def dvc(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `dvc` in the project, out of reach of the terminal's Ctrl-C; without `check`, it may fail."""
    check_files(root)
    return _run(root, str(dvc_program()), arguments, check)


def dvc_program() -> Path:
    """Path of the command `dvc` in this Python's environment."""
    program = Path(sys.executable).parent / "dvc"
    if not program.is_file():
        raise UserError(f"{program} is missing: install the project here: `pip install -e '.[pipeline]'`")
    return program


def git(root: Path, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `git` in a repository, with the further options of `_run`; without `check`, it may fail."""
    return _run(root, "git", arguments, check, **options)


def reason_of(done: subprocess.CompletedProcess[str]) -> str:
    """Why dvc or git failed: the last line that it marked as an error, else its last line."""
    errors = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1].removeprefix("ERROR: ") if errors else last_line(done)


def _run(
    root: Path, program: str, arguments: Sequence[str], check: bool, *, env: Mapping[str, str] | None = None,
    input: str | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Runs a program with `env` added to its environment and `input` as its standard input."""
    name = Path(program).name
    try:
        done = run_program(program, *arguments, cwd=root, env={**own_environment(), **(env or {})}, input=input)
    except FileNotFoundError:
        raise UserError(f"{name} is missing: install it") from None
    if check and done.returncode:
        shown = " ".join([name, *arguments[:WORDS_SHOWN]]) + (" ..." if len(arguments) > WORDS_SHOWN else "")
        raise UserError(f"`{shown}` in {root} failed ({reason_of(done)}): run it there yourself")
    return done
