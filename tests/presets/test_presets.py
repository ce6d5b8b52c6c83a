"""Presets: what they hold, and that applying one changes the values and nothing else of params.yaml."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scm import cli
from scm.errors import UserError
from scm.params import METHODS, dump, flatten, load
from scm.presets import apply, table
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
OWN = [
    *("cifar3", "digits", "digits-dit", "digits-methods", "digits-plain", "digits-short", "digits-smoke", "folder"),
    *("imagenet512-dit-xl", "photos-latent"),
]
PAPER = [
    *("cifar10", "cifar10-ect"),
    *(f"imagenet512-{size}" for size in ("l", "m", "s", "xl", "xxl")),
    *(f"imagenet64-{size}" for size in ("l", "m", "s", "xl")),
]
NAMES = sorted([*OWN, *PAPER])
UNLIKE = ["digits", "digits-methods", "folder", "cifar10-ect", "imagenet512-s", "imagenet64-l"]
"""Presets that differ in what blocks they have."""


@pytest.fixture
def project(tmp_path):
    """A project with the shipped presets and digits applied."""
    shipped.make_project(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """params.yaml and its values after each of UNLIKE alone."""
    found = {}
    for name in UNLIKE:
        folder = tmp_path_factory.mktemp(name)
        apply.apply(shipped.make_project(folder), folder, name)
        found[name] = (folder / "params.yaml").read_text(encoding="utf-8"), values(folder)
    return found


def write_preset(project: Path, name: str, text: str) -> None:
    (project / "pipelines" / "presets" / f"{name}.yaml").write_text(text, encoding="utf-8")


def values(project: Path) -> dict:
    return flatten(dump(load(project / "params.yaml")))


def test_the_shipped_presets_begin_with_what_they_are():
    assert apply.names(ROOT) == NAMES
    assert apply.summary(ROOT, "folder").startswith("Your own images, 32x32 RGB: ")
    for name in NAMES:
        header = apply.show(ROOT, name)
        assert "\n# Expected" in header and "Time: " in header
        assert f"# Command: scm preset apply {name} && scm run\n" in header


@pytest.mark.skipif(shipped.has_local_edits(), reason="params.yaml or the presets have local edits")
def test_digits_changes_nothing_in_the_shipped_file(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    before = path.stat().st_mtime_ns
    assert load(path).preset == "digits"
    assert apply.apply(path, ROOT, "digits") == []
    assert path.stat().st_mtime_ns == before


def test_digits_names_every_value_but_the_users(project):
    named = set(flatten(apply.resolve(ROOT, "digits")))
    everything = set(values(project))
    assert {key.partition(".")[0] for key in everything - named} == {"preset", "runtime", "mlflow", "publish"}


@pytest.mark.parametrize("first", UNLIKE)
def test_a_preset_after_another_gives_the_same_values(project, applied, first):
    for then in UNLIKE:
        (project / "params.yaml").write_text(applied[first][0], encoding="utf-8")
        apply.apply(project / "params.yaml", project, then)
        assert values(project) == applied[then][1] and applied[then][1]["preset"] == then


def test_there_and_back_restores_the_file_to_the_letter(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    for name in ("folder", "digits-smoke", "imagenet512-m", "cifar10-ect", "digits-methods", "digits"):
        apply.apply(path, project, name)
    assert path.read_text(encoding="utf-8") == original


def test_keys_that_an_anchor_ties_get_no_wrong_values(project):
    """teacher.lr and student.common.lr differ in digits, and one mapping cannot say both."""
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    own = next(line for line in text.splitlines() if line.startswith("    lr: {"))
    tied = text.replace("\n  lr:\n", "\n  lr: &lr\n").replace(own, "    lr: *lr")
    assert tied.count("&lr") == 1
    path.write_text(tied, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        apply.apply(path, project, "digits")
    assert str(caught.value) == f"{path}: an anchor (&) ties keys that need different values; write the values out"
    assert path.read_text(encoding="utf-8") == tied


def test_a_block_that_went_and_came_back_in_one_line_is_a_block_again(tmp_path):
    """sCD's learning rate is a mapping in digits, and cifar10-ect has no sCD."""
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply.apply(path, ROOT, "digits")
    original = path.read_text(encoding="utf-8")
    for name in ("cifar10-ect", "digits-plain"):
        apply.apply(path, ROOT, name)
    assert "  scd: {images: 192Ki, dropout: 0.0}\n" in path.read_text(encoding="utf-8")
    apply.apply(path, ROOT, "digits")
    assert path.read_text(encoding="utf-8") == original


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_does_what_diff_says_and_digits_restores_the_shipped_file(tmp_path, name):
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply.apply(path, ROOT, "digits")
    original = path.read_text(encoding="utf-8")
    told = apply.diff(path, ROOT, name)
    assert apply.apply(path, ROOT, name) == told and apply.diff(path, ROOT, name) == []
    resolved = apply.resolve(ROOT, name)["student"]["methods"]
    params = load(path)
    assert params.preset == name and list(params.student.methods.items()) == list(resolved.items())
    apply.apply(path, ROOT, "digits")
    assert path.read_text(encoding="utf-8") == original


BLOCK = """  methods:
    sct: scd   # from a finished sCD
    scd: teacher
  common:"""


@pytest.mark.parametrize("written", ["{sct: scd, scd: teacher}   # on", BLOCK.partition("methods:")[2]])
def test_methods_are_replaced_as_a_whole_and_in_their_order(project, written):
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("models: [teacher, scd, sct]", "models: [teacher, sct, scd]")
    line = "methods: {scd: teacher, sct: teacher}\n"
    assert line in text
    path.write_text(text.replace(line, f"methods: {written.removesuffix('  common:')}\n"), encoding="utf-8")
    told = ["student.methods.sct: scd -> teacher", "evaluate.models: [teacher, sct, scd] -> [teacher, scd, sct]"]
    assert apply.apply(path, project, "digits") == told
    student = load(path).student
    assert list(student.methods) == ["scd", "sct"]
    assert ("# on" if "# on" in written else "# from a finished sCD") in path.read_text(encoding="utf-8")
    write_preset(
        project, "one", "extends: digits\nstudent: {methods: {sct: teacher}}\nevaluate: {models: [teacher, sct]}\n"
    )
    told = ["preset: digits -> one", "student.methods.scd: teacher -> (absent)"]
    assert apply.apply(path, project, "one") == [*told, "evaluate.models: [teacher, scd, sct] -> [teacher, sct]"]


def test_comments_and_layout_stay_and_only_changed_lines_differ(project):
    path = project / "params.yaml"
    before = path.read_text(encoding="utf-8").splitlines()
    apply.apply(path, project, "folder")
    after = path.read_text(encoding="utf-8").splitlines()
    assert len(after) == len(before)
    assert [line.partition(" #")[2] for line in after] == [line.partition(" #")[2] for line in before]
    assert "  multipliers: [1, 2, 2]        # channels at each resolution, as multiples of width" in after


def test_diff_tells_what_apply_does(project):
    path = project / "params.yaml"
    write_preset(project, "short", "extends: digits\nteacher:\n  images: 1Mi\nselect:\n  t_mid: [0.7]\n")
    expected = [
        "preset: digits -> short",
        "teacher.images: 320Ki -> 1Mi",
        "select.t_mid: [0.6, 0.8, 1.1] -> [0.7]",
    ]
    assert apply.diff(path, project, "short") == expected
    assert values(project)["preset"] == "digits"
    assert apply.apply(path, project, "short") == expected
    assert apply.diff(path, project, "short") == []


def test_the_users_sections_stay_unless_the_preset_names_them(project):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("threads: null", "threads: 2"), encoding="utf-8")
    apply.apply(path, project, "folder")
    assert values(project)["runtime.threads"] == 2
    write_preset(project, "named", "extends: digits\nruntime:\n  threads: 1\n")
    assert "runtime.threads: 2 -> 1" in apply.apply(path, project, "named")


def test_overrides_that_the_preset_does_not_name_are_taken_out(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace("sct: {images: 128Ki,", "sct: {images: 128Ki, p_mean: -0.5,"), encoding="utf-8")
    assert apply.apply(path, project, "digits") == ["student.sct.p_mean: -0.5 -> (absent)"]
    assert path.read_text(encoding="utf-8") == original


def test_a_removed_last_key_leaves_the_comment_after_it(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    end = "  sct: {images: 128Ki, dropout: 0.0}\n"
    block = "  sct:\n    images: 128Ki\n    dropout: 0.0\n    p_mean: -0.5\n\n# about the averages\n"
    path.write_text(original.replace(end + "\n", block), encoding="utf-8")
    apply.apply(path, project, "digits")
    assert "    dropout: 0.0\n\n# about the averages\nema:" in path.read_text(encoding="utf-8")


def test_small_numbers_are_written_with_a_dot(project):
    write_preset(
        project, "tiny", "extends: digits\nteacher:\n  optimizer: {name: radam, betas: [0.9, 0.95], eps: 1.0e-12}\n"
    )
    apply.apply(project / "params.yaml", project, "tiny")
    assert "optimizer: {name: radam, betas: [0.9, 0.95], eps: 1.0e-12}" in (project / "params.yaml").read_text()


MAPPING = "must be a mapping; write its keys indented below it"
PAPER_BLOCK = "must be a mapping; write some of dataset, size, comparison, parameters below it, or take it out"
NAME = "must be a preset's name or a list of names; correct it or take it out"
STARTS = "must map each method to the model that it starts from; write {scd: teacher}"
ILL_FORMED = [
    ("paper: [1]", f"paper = [1]: {PAPER_BLOCK}"),
    ("paper: null", f"paper = null: {PAPER_BLOCK}"),
    (
        "paper: {dataset: cifar10, parameters: abc}",
        'paper.parameters = "abc": must be a whole number; write one such as 60066692',
    ),
    (
        "paper: {dataset: cifar10, parameters: true}",
        "paper.parameters = true: must be a whole number; write one such as 60066692",
    ),
    ("paper: {dataset: 10}", "paper.dataset = 10: must be text; put quotes around it"),
    (
        "paper: {data: cifar10}",
        'paper.data = "cifar10": unknown key; remove it (known here: dataset, size, comparison, parameters)',
    ),
    ("student: null", f"student = null: {MAPPING}"),
    ("student: []", f"student = []: {MAPPING}"),
    ("student: {methods: 3}", f"student.methods = 3: {STARTS}"),
    ("student: {methods: [scd]}", f'student.methods = ["scd"]: {STARTS}'),
    (
        "student: {methods: {icm: teacher}}",
        f'student.methods = "icm": unknown method; did you mean rcm? the methods are {", ".join(METHODS)}',
    ),
    ("student: {multistep: 7}", f"student.multistep = 7: {MAPPING}"),
    (
        "student: {multistep: {segments: [2]}}",
        "student.multistep.segments = [2]: must be a whole number; write one such as 128",
    ),
    ("data: 5", f"data = 5: {MAPPING}"),
    (
        "data: {source: null}",
        "data.source = null: must be 'cifar10', 'digits', 'folder', 'imagenet', 'parquet' or 'webdataset'",
    ),
    ("teacher: {imges: 1Mi}", 'teacher.imges = "1Mi": unknown key; did you mean teacher.images?'),
    (
        "teacher: {optimizer: {betas: [0.9]}}",
        "teacher.optimizer.betas = [0.9]: has too few entries; add what is missing",
    ),
    ("extends: null", f"extends = null: {NAME}"),
    ("extends: {a: b}", f'extends = {{"a": "b"}}: {NAME}'),
    ("extends: 3", f"extends = 3: {NAME}"),
    ("extends: [digits, 3]", f'extends = ["digits", 3]: {NAME}'),
    ("extends: digit", 'extends = "digit": no such preset; did you mean digits?'),
    ("extends: base/image", 'extends = "base/image": no such preset; did you mean base/images?'),
    ("extends: nope", f'extends = "nope": no such preset; choose from bad, {", ".join(NAMES)}'),
]


@pytest.mark.parametrize("command", ["list", "diff", "apply"])
@pytest.mark.parametrize(("text", "message"), ILL_FORMED)
def test_an_ill_formed_preset_is_refused_alike_by_all_commands(project, command, text, message):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    write_preset(project, "bad", text if text.startswith("extends") else f"extends: digits\n{text}\n")
    with pytest.raises(UserError) as caught:
        if command == "list":
            table.entries(project)
        else:
            {"diff": apply.diff, "apply": apply.apply}[command](path, project, "bad")
    assert str(caught.value) == f"{project / 'pipelines' / 'presets' / 'bad.yaml'}: {message}"
    assert path.read_text(encoding="utf-8") == original


def test_a_fault_is_looked_for_in_the_file_that_has_it(project):
    write_preset(project, "base/part", "data: 5\n")
    write_preset(project, "mine", "extends: [digits, base/part]\n")
    with pytest.raises(UserError, match=r"presets/base/part\.yaml: data = 5: must be a mapping; "):
        apply.diff(project / "params.yaml", project, "mine")


def test_values_that_do_not_go_together_are_refused_and_nothing_written(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    write_preset(project, "wrong", "extends: digits\nsampler: {sigma_min: 90.0}\n")
    message = "sampler.sigma_min = 90.0: must be below sampler.sigma_max; use less than 80.0"
    with pytest.raises(UserError) as caught:
        apply.apply(path, project, "wrong")
    assert str(caught.value) == f"preset wrong applied to {path}: {message}"
    assert path.read_text(encoding="utf-8") == original


def test_unknown_names_and_circles(project):
    folder = project / "pipelines" / "presets"
    with pytest.raises(UserError) as caught:
        apply.show(project, "digit")
    assert str(caught.value) == f"no preset digit in {folder}: did you mean digits?"
    with pytest.raises(UserError) as caught:
        apply.show(project, "../../params")
    assert str(caught.value) == f"no preset ../../params in {folder}: choose from {', '.join(NAMES)}"
    write_preset(project, "a", "extends: b\n")
    write_preset(project, "b", "extends: a\n")
    with pytest.raises(UserError) as caught:
        apply.resolve(project, "a")
    assert str(caught.value) == f"{folder / 'a.yaml'}: extends itself (a -> b -> a); cut the circle"


def test_a_later_part_wins_and_paper_is_no_value(project):
    write_preset(project, "base/red", "network: {width: 64}\nteacher: {batch: 64}\npaper: {dataset: red, size: S}\n")
    write_preset(project, "base/blue", "network: {width: 96}\nteacher: {dropout: 0.2}\npaper: {size: M}\n")
    write_preset(project, "mixed", "extends: [digits, base/red, base/blue]\nseed: 1\npaper: {parameters: 7}\n")
    expected = {
        "preset: digits -> mixed", "seed: 0 -> 1", "network.width: 32 -> 96", "teacher.batch: 128 -> 64",
        "teacher.dropout: 0.0 -> 0.2",
    }  # fmt: skip
    assert set(apply.diff(project / "params.yaml", project, "mixed")) == expected
    assert apply.paper_row(project, "mixed") == {"dataset": "red", "size": "M", "parameters": 7}
    write_preset(project, "mine", "extends: mixed\nnetwork: {width: 16}\n")
    assert apply.paper_row(project, "mine") == {}
    write_preset(project, "claim", "extends: mixed\npaper: {parameters: 8}\n")
    assert apply.paper_row(project, "claim")["parameters"] == 8


def test_parts_are_shown_but_not_applied(project):
    path = project / "params.yaml"
    original = path.read_text(encoding="utf-8")
    assert apply.show(project, "base/images").startswith("# Part of presets: ")
    for action in (apply.apply, apply.diff):
        with pytest.raises(UserError) as caught:
            action(path, project, "base/images")
        expected = f"base/images is a part of presets, not a preset: choose from {', '.join(NAMES)}"
        assert str(caught.value) == expected
    assert path.read_text(encoding="utf-8") == original
    with pytest.raises(UserError, match=r"no preset base/image in .*: did you mean base/images\?$"):
        apply.show(project, "base/image")
    with pytest.raises(UserError, match=r"no preset base/\.\./digits in .*: "):
        apply.show(project, "base/../digits")


def test_what_dvc_writes_gets_its_comments_and_layout_back(project, monkeypatch, capsys):
    from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` does

    path, changed = project / "params.yaml", ("student.scd.images=160Ki", "select.t_mid=[0.5,0.7]", "runtime.threads=2")
    before = path.read_text(encoding="utf-8").splitlines()
    for command in (("init", "-q"), ("add", "params.yaml"), ("commit", "-qm", "x")):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=project, check=True)
    monkeypatch.chdir(project)
    apply_overrides(path, list(changed))
    values = dump(load(path))
    after = path.read_text(encoding="utf-8").splitlines()
    assert len(set(before) - set(after)) > len(changed)
    assert cli.main(["params", "tidy"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "student.scd.images: 128Ki -> 160Ki",
        "select.t_mid: [0.6, 0.8, 1.1] -> [0.5, 0.7]",
        "runtime.threads: null -> 2",
        f"{path}: laid out as in HEAD; values that differ from it: 3",
    ]
    after = path.read_text(encoding="utf-8").splitlines()
    assert dump(load(path)) == values and len(before) == len(after)
    assert [line.split(":")[0].strip() for line in after if line not in before] == ["scd", "t_mid", "threads"]
    assert cli.main(["params", "tidy", "--of", "nothing"]) == 1
    assert "`git show --end-of-options nothing:./params.yaml` in" in capsys.readouterr().err
