"""The drill: what a team goes through with retraining on a schedule, from the first champion to a rollback.

Clones of one repository with a DVC remote between them: where people work, the CI machine, and another that publishes.
With SCM_DRILL_LOG=FILE the commands and what they said are written there; docs/retraining.md shows it.
"""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scm.retraining.proposal import CONTENT
from tests.end_to_end.conftest import ROOT, Run, environment, make_project, runner

pytestmark = [pytest.mark.slow, pytest.mark.long]

VALUES = (
    "data.source=folder data.path=data/images data.held_out=0.0 student.methods='{scd: teacher}' "
    "evaluate.models=[teacher,scd] evaluate.repeats=3 runtime.log_every=256 runtime.checkpoint_every=1Ki"
)
WIDTH = 150
"""Characters of a line that the log keeps."""
SCM = ("scm retrain: ", "scm: error: ")
TITLES = (
    "The first champion", "No change", "New images", "Killed, and two schedules at once", "A worse candidate",
    "A broken candidate", "Rollback",
)  # fmt: skip


class Drill:
    """The clones, and the log of what is done there."""

    def __init__(self, folder: Path) -> None:
        source = make_project(folder / "source")
        runner(source)("git", "branch", "-M", "main")
        runner(folder)("git", "clone", "-q", "--bare", str(source), "origin.git")
        for name in ("team", "ci"):
            runner(folder)("git", "clone", "-q", "origin.git", name)
            runner(folder / name)("git", "config", "user.email", "tests@example.invalid")
            runner(folder / name)("git", "config", "user.name", "tests")
        self.folder = folder
        self.team, self.ci = runner(folder / "team"), runner(folder / "ci")
        self.lines: list[str] = []

    def chapter(self, title: str) -> None:
        assert title in TITLES
        self.lines += ["", f"# {title}"]

    def say(self, run: Run, *command: str, code: int = 0) -> str:
        """Runs a command and logs it with what `scm retrain` itself, or a command that is no pipeline, has said."""
        done = run(*command, code=code)
        shown = " ".join(f'"{part}"' if " " in part else part for part in command)
        self.log(shown, done.stdout + done.stderr if command[:2] != ("scm", "retrain") else done.stderr, code)
        return done.stdout + done.stderr

    def log(self, command: str, text: str, code: int = 0) -> None:
        kept = [line.removeprefix("scm retrain: ") for line in text.splitlines() if not self._noise(command, line)]
        if command == "scm plan":
            kept = [kept[0], "...", kept[-1]]
        kept = [line if len(line) <= WIDTH else f"{line[:WIDTH]}..." for line in kept]
        self.lines += [f"$ {command}", *kept, *([f"(exit code {code})"] if code else [])]

    @staticmethod
    def _noise(command: str, line: str) -> bool:
        return not line.strip() or (command.startswith("scm retrain") and not line.startswith(SCM))

    def fresh(self) -> None:
        """What a CI service does before each job: the branch as it is, whatever is ignored stays."""
        self.ci("git", "fetch", "-q", "origin")
        self.ci("git", "checkout", "-q", "--force", "-B", "main", "origin/main")

    def merge(self) -> None:
        """Somebody accepts what was proposed."""
        self.team("git", "fetch", "-q", "origin")
        branches = self.team("git", "branch", "-r", "--list", "origin/retrain/*").stdout.split()
        self.team("git", "merge", "-q", "--ff-only", branches[0])
        self.team("git", "push", "-q", "origin", "main", f":{branches[0].removeprefix('origin/')}")

    def champion(self) -> str:
        line = self.ci("scm", "champion").stdout
        return re.sub(r" with uncommitted changes|(?<=commit .{12})\w+", "", line).strip()

    def verdict(self) -> dict:
        return json.loads((self.folder / "ci/results/verdict.json").read_text())


def add_images(folder: Path, which: slice, gain: float) -> None:
    """Some of the digits as files; `gain` is the exposure of whoever has scanned them."""
    digits = load_digits()
    for number in range(*which.indices(len(digits.images))):
        file = folder / "data/images" / str(digits.target[number]) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(digits.images[number] * 15 * gain)).save(file)


def share_images(drill: Drill, message: str) -> None:
    drill.team("dvc", "add", "-q", "data/images")
    drill.team("git", "add", ".")
    drill.team("git", "commit", "-qm", message)
    drill.team("dvc", "push", "-q")
    drill.team("git", "push", "-q", "origin", "main")


def test_the_drill(tmp_path):
    drill = Drill(tmp_path)
    try:
        first_champion(drill)
        no_change(drill)
        new_images(drill)
        killed_and_two_at_once(drill)
        worse_candidate(drill)
        broken_candidate(drill)
        rollback(drill)
    finally:
        if "SCM_DRILL_LOG" in os.environ:
            Path(os.environ["SCM_DRILL_LOG"]).write_text("\n".join(drill.lines).strip() + "\n")


def first_champion(drill: Drill) -> None:
    drill.chapter("The first champion")
    store = f"mlflow.uri=sqlite:///{drill.folder / 'mlflow.db'}"
    drill.team("scm", "retrain", "plan", "--params", f"{VALUES} {store}")
    drill.team("dvc", "remote", "add", "-d", "storage", str(drill.folder / "storage"))
    add_images(drill.folder / "team", slice(0, 600), 0.3)
    share_images(drill, "600 images, and a remote")
    drill.fresh()
    drill.say(drill.ci, "scm", "retrain", "train", "--minutes", "60")
    runner(drill.folder)("git", "clone", "-q", "origin.git", "publisher")
    for name in CONTENT:  # what a CI service hands over from job to job
        runner(drill.folder)("cp", "-r", f"ci/{name}", f"publisher/{Path(name).parent}/")
    text = drill.say(runner(drill.folder / "publisher"), "scm", "retrain", "publish", "--propose", "branch")
    assert "First champion: digits-smoke, version 1" in text
    drill.merge()


def no_change(drill: Drill) -> None:
    drill.chapter("No change")
    drill.fresh()
    runner(drill.folder)("git", "clone", "-q", "origin.git", "elsewhere")
    plan = drill.say(runner(drill.folder / "elsewhere"), "scm", "plan")
    assert plan.splitlines()[-1] == "no stage of 10 runs"
    text = drill.say(drill.ci, "scm", "retrain", "--propose", "branch")
    assert "Unchanged: digits-smoke, version 1" in text and "Running stage" not in text
    assert drill.ci("git", "ls-remote", "origin", "refs/heads/retrain/*").stdout == ""


def new_images(drill: Drill) -> None:
    """The champion has seen dim scans alone; most of the new ones are as bright as they should be."""
    drill.chapter("New images")
    add_images(drill.folder / "team", slice(600, None), 1.0)
    share_images(drill, "1,197 more images, of a better scanner")
    drill.fresh()
    plan = drill.say(drill.ci, "scm", "plan")
    assert "data: data/images changed (data/images.dvc has another hash)" in plan
    assert plan.splitlines()[-1].startswith("10 of 10 stages run")


def killed_and_two_at_once(drill: Drill) -> None:
    drill.chapter("Killed, and two schedules at once")
    command = ["scm", "retrain", "--propose", "branch"]
    first = start(drill, command)
    wait_for(first, r"\[train_student@scd\] .*ETA")
    os.killpg(first.pid, signal.SIGKILL)
    killed = first.communicate()[1]
    drill.log(" ".join(command), killed + "scm retrain: (killed with kill -9 in train_student)\n")
    one = start(drill, command)
    wait_for(one, r"resuming at")
    two = start(drill, command)
    said = [process.communicate() for process in (one, two)]
    for name, process, (out, err) in zip(("one", "two"), (one, two), said, strict=True):
        assert process.returncode == 0, out + err
        drill.log(f"{' '.join(command)}    # {name}", err)
    assert "was measured by another ruler" in said[0][1] and "Promoted: digits-smoke, version 2" in said[0][1]
    assert "Promoted: digits-smoke, version 3" in said[0][1]
    assert f"another `scm retrain` is at work (process {one.pid}): waiting for it" in said[1][1]
    assert "no stage of 10 runs" in said[1][0] and "Unchanged: digits-smoke, version 3" in said[1][1]
    drill.merge()


def worse_candidate(drill: Drill) -> None:
    """Sampled badly: its second step begins where nearly all is noise."""
    drill.chapter("A worse candidate")
    drill.fresh()
    drill.say(drill.ci, "scm", "retrain", "--params", "select.t_mid=[1.5]")
    reason = drill.verdict()["reasons"][0]
    assert drill.verdict()["kind"] == "challenger" and reason.startswith("worse by more than the noise")
    assert drill.champion().startswith("digits-smoke version 3")


def broken_candidate(drill: Drill) -> None:
    drill.chapter("A broken candidate")
    drill.fresh()
    drill.say(drill.ci, "scm", "retrain", "--propose", "branch", "--params", "student.common.lr.max=3.0", code=1)
    assert drill.verdict()["kind"] == "refused" and drill.champion().startswith("digits-smoke version 3")
    assert drill.ci("git", "ls-remote", "origin", "refs/heads/retrain/*").stdout == ""


def rollback(drill: Drill) -> None:
    drill.chapter("Rollback")
    drill.fresh()
    drill.say(drill.ci, "scm", "rollback")
    assert drill.champion().startswith("digits-smoke version 2")
    drill.say(drill.ci, "scm", "retrain")
    verdict = drill.verdict()
    assert verdict["kind"] == "challenger" and "was rolled back" in verdict["reasons"][0]
    assert drill.champion().startswith("digits-smoke version 2")


def start(drill: Drill, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=drill.folder / "ci", env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], pattern: str) -> None:
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(pattern, line):
            return
    pytest.fail("".join(seen) + (process.communicate()[1] or ""))


def test_the_log_in_the_docs_is_of_this_drill():
    page = (ROOT / "docs/retraining.md").read_text()
    places = [page.find(f"\n# {title}\n") for title in TITLES]
    assert -1 not in places and places == sorted(places)
