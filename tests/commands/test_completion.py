"""`scm completion`: the script for bash, asked as bash asks it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scm import cli
from scm.commands import completion

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "scm.bash"
    file.write_text(completion.script(cli.parser(), "bash"), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("scm sa", {"sample"}),
        ("scm preset ", {"list", "show", "diff", "apply"}),
        ("scm plan --me", {"--measure", "--memory"}),
        ("scm sample --model sc", {"scd", "scd_gan", "scd_vsd", "sct"}),
        ("scm preset apply digits-s", {"digits-short", "digits-smoke"}),
        ("scm study fig5", {"fig5a", "fig5b", "fig5c"}),
        ("scm run train_student@sct", {"train_student@sct"}),
        ("scm params check pyproj", {"pyproject.toml"}),
        ("scm sample -o READ", {"README.md"}),
        ("scm completion ", {"bash", "zsh"}),
    ],
)
def test_bash_completes(script, typed, offered):
    *before, last = typed.split(" ")
    words = " ".join(f"'{word}'" for word in (*before, last))
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(before)}; _shtab_scm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    command = ["bash", "--norc", "-c", f"source {script}; {asked}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered and not done.stderr


def test_names_are_found_from_a_folder_of_the_project(script):
    command = ["bash", "--norc", "-c", f"source {script}; _scm_presets digits-s; cd /; _scm_presets digits-s; true"]
    done = subprocess.run(command, cwd=ROOT / "docs", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["digits-short", "digits-smoke"], "and outside of it none"


def test_the_script_for_zsh(tmp_path, capsys):
    assert cli.main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef scm\n") and "compadd -- ${(f)names}" in text
    if zsh := shutil.which("zsh"):
        (tmp_path / "_scm").write_text(text, encoding="utf-8")
        subprocess.run([zsh, "-n", tmp_path / "_scm"], check=True)
