"""Short commands of other programs: their text, their input, and the line that says why they failed."""

import sys

import pytest

from scm.base.processes import last_line, run_program

ECHO = (
    "import sys; print(sys.stdin.read()); print('one', file=sys.stderr); print(' two ', file=sys.stderr); sys.exit(3)"
)


def test_text_exit_code_and_reason(tmp_path):
    done = run_program(sys.executable, "-c", ECHO, cwd=tmp_path, input="given")
    assert (done.returncode, done.stdout, last_line(done)) == (3, "given\n", "two")
    closed = run_program(sys.executable, "-c", ECHO, cwd=tmp_path)
    assert closed.stdout == "\n"  # nobody can type an answer
    silent = run_program(sys.executable, "-c", "raise SystemExit(4)", cwd=tmp_path)
    assert last_line(silent) == "exit code 4"


def test_environment_folder_and_session_are_the_childs_own(tmp_path):
    code = "import os; print(os.environ.get('ONLY'), os.getcwd(), os.getsid(0) == os.getpid())"
    done = run_program(sys.executable, "-c", code, cwd=tmp_path, env={"ONLY": "this"})
    assert done.stdout == f"this {tmp_path.resolve()} True\n"


def test_a_missing_program_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_program("no-such-program-of-ours", cwd=tmp_path)
