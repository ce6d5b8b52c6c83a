"""The command `dvc`, of this Python's environment, and its remotes: what they bring, what they are given."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scm.errors import UserError
from scm.results.fingerprint import outputs_of_stages

FOREIGN = ("DVC_ROOT", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""What DVC's stages and git's hooks set: it would lead git and DVC to another project."""


@dataclass(frozen=True)
class Remote:
    """The default remote: its name, and its address as it is seen from anywhere."""

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
    """Puts outputs in their places as dvc.lock has them, from the cache or else from the remote.

    Args:
        targets: outputs, or folders of which all outputs are meant.

    Returns:
        those that dvc.lock does not know, and outputs that are in neither; all, if it is not clear which.
    """
    stages = set(dvc(root, "stage", "list", "--name-only").stdout.split())  # dvc.lock keeps those of before
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
    """Puts the images in place that a .dvc file beside `path` asks for, if there is one. DVC, reproducing, would take
    older ones that lie there for what is wanted, and write their hash into that file.

    Raises:
        UserError: some lie there that DVC has not got, or those that are wanted are nowhere.
    """
    file = f"{path}.dvc"
    if not (root / file).is_file():
        return
    done = dvc(root, *(["checkout"] if source is None else ["pull", "--remote", source.name]), file, check=False)
    if "unsaved files" in done.stderr:
        remedy = f"`dvc add {path}` and commit {file} to train on them, or take them out"
        raise UserError(f"{root / path} holds files that {file} does not know: {remedy}")
    if done.returncode:
        place = "DVC's cache" if source is None else f"the remote {source.name}"
        raise UserError(
            f"{file}: its images do not come from {place} ({_last(done.stderr)}): `dvc push` them where they are"
        )


def push(root: Path) -> None:
    """Gives the remote what it lacks, with the run cache, from which another machine takes stages that have run."""
    dvc(root, "push", "--run-cache")


def dvc(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs it, out of the reach of the terminal's Ctrl-C; what it says is the reason if it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    command = [str(Path(sys.executable).parent / "dvc"), *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False, start_new_session=True
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is missing: install the project with `pip install -e .`") from None
    if check and done.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}` in {root} failed ({_last(done.stderr)}): run it there yourself")
    return done


def _last(text: str) -> str:
    """The line that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return ([*lines, *errors] or ["no message"])[-1]
