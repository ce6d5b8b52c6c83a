"""DVC's closing advice is left out; all that it says else, errors too, stays."""

import subprocess
import sys

from scm.pipeline import repro
from tests.support.plan_projects import run

FAKE = f"""
import logging, sys
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
log = logging.getLogger({repro.LOGGER!r})
log.info("Running stage 'prepare':")
print(sys.argv[1:], sys.path[0])
log.info("\\nTo track the changes with git, run:\\n\\n%s", "git add dvc.lock")
log.info("\\nTo enable auto staging, run:\\n\\n\\tdvc config core.autostage true")
log.error("failed to add, add manually")
print({repro.PRINTED!r})
print("the end")
sys.exit(3)
"""


def test_a_program_without_its_advice(tmp_path):
    program = tmp_path / "dvc"
    program.write_text(FAKE, encoding="utf-8")
    command = [sys.executable, repro.__file__, str(program), "repro", "-f"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "Running stage 'prepare':", f"['repro', '-f'] {tmp_path}", "failed to add, add manually", "the end",
    ]  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")


def test_dvc_itself_still_says_so(tmp_path):
    """A new version of DVC with other words would show here."""
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo made > out, outs: [out]}}\n", encoding="utf-8")
    program = tmp_path / "program"
    program.write_text("from dvc.cli import main\nraise SystemExit(main())\n", encoding="utf-8")
    quiet = run(tmp_path, sys.executable, repro.__file__, str(program), "repro")
    assert quiet.splitlines()[:2] == ["Running stage 'one':", "> echo made > out"]
    assert "git add" not in quiet and "dvc push" not in quiet and not quiet.endswith("\n\n")
    (tmp_path / "dvc.lock").unlink()
    advised = run(tmp_path, sys.executable, "-m", "dvc", "repro", "--force")
    assert repro.PRINTED in advised and all(words in advised for words in repro.ADVICE)
