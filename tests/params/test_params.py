"""The schema of params.yaml: what it accepts, and each refusal by its text."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from scm import methods
from scm.base.count import Count
from scm.errors import UserError
from scm.params import dump, flatten, load
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
with tempfile.TemporaryDirectory() as _folder:
    PARAMS = shipped.make_project(Path(_folder)).read_text(encoding="utf-8")


@pytest.fixture
def params_file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS, encoding="utf-8")
    return path


def fault(folder: Path, text: str) -> str:
    """The message for a file with this text, without the file's name."""
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def changed(*replacements: tuple[str, str]) -> str:
    text = PARAMS
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def section(name: str, old: str, new: str) -> str:
    """params.yaml with a replacement in one section."""
    head, mark, rest = PARAMS.partition(f"\n{name}:")
    assert mark and old in rest, old
    return head + mark + rest.replace(old, new, 1)


def test_dump_gives_back_the_plain_file(params_file):
    assert dump(load(params_file)) == YAML(typ="safe", pure=True).load(PARAMS)


def test_dump_keeps_how_counts_are_written_and_what_a_method_overrides(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(changed(("scd: {images: 128Ki,", "scd: {images: 131072, p_mean: -0.4,")), encoding="utf-8")
    params = load(path)
    assert params.student.scd is not None and params.student.scd.images == params.student.method("sct").images
    assert dump(params)["student"]["scd"] == {"images": 131072, "p_mean": -0.4, "dropout": 0.0}
    assert dump(params)["student"]["sct"] == {"images": "128Ki", "dropout": 0.0}


def test_method_settings_are_the_common_ones_overridden(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(changed(("scd: {images: 128Ki,", "scd: {images: 64Mi, p_mean: -0.4,")), encoding="utf-8")
    student = load(path).student
    scd, sct = student.method("scd"), student.method("sct")
    assert (scd.p_mean, scd.images, scd.tangent_warmup) == (-0.4, 64 << 20, 20 << 10)
    assert (sct.p_mean, sct.images, sct.lr.max) == (-1.0, 128 << 10, 1e-3)


def test_a_method_may_override_the_tangent_and_the_weighting(tmp_path):
    path = tmp_path / "params.yaml"
    own = "scd: {tangent: raw, adaptive_weighting: false, images:"
    path.write_text(changed(("scd: {images:", own)), encoding="utf-8")
    student = load(path).student
    scd, sct = student.method("scd"), student.method("sct")
    assert (scd.tangent, scd.adaptive_weighting) == ("raw", False)
    assert (sct.tangent, sct.adaptive_weighting) == ("normalized", True)


def test_a_method_named_twice_is_a_fault_of_the_file(tmp_path):
    message = fault(tmp_path, changed((METHODS, "{scd: teacher, scd: sct}")))
    assert 'is not valid YAML (found duplicate key "scd"' in message


def test_params_are_frozen_and_survive_pickling(params_file):
    params = load(params_file)
    with pytest.raises(ValidationError, match="frozen"):
        params.teacher.batch = 1
    assert pickle.loads(pickle.dumps(params)) == params
    assert dump(pickle.loads(pickle.dumps(params))) == dump(params)


def test_no_torch_is_imported():
    code = "import sys, scm.params, scm.presets.table; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("written", "number"), [(7, 7), ("128Ki", 131072), ("8Mi", 8388608), ("1Gi", 1 << 30)])
def test_counts(written, number):
    assert Count(written) == number and Count(written).written == written


def test_flatten():
    nested = {"a": {"b": {"c": 1}, "d": [0.9, "x"]}, "e": None}
    assert flatten(nested) == {"a.b.c": 1, "a.d": "[0.9, x]", "e": None}


GONE = "gone; remove it, and fetch data/latents with `dvc pull data/latents`"
GUIDED_SCT = ": student.sct.guidance = [1.0, 2.0]: unknown key; remove it (known here: batch, precision, p_mean, p_std, optimizer, lr, dropout_max_resolution, label_dropout, tangent, tangent_norm_c, tangent_warmup, adaptive_weighting, images, dropout)"
METHODS = "{scd: teacher, sct: teacher}"
MAP_EACH = "must map each method to the model that it starts from; write"
NAME_IT = "must name the model that it starts from; write teacher, or a method"
UNKNOWN = f"the methods are {', '.join(methods.names())}"
ONE_KEY = [
    (
        "teacher",
        "batch: 128",
        "bach: 128",
        ": teacher.bach = 128: unknown key; did you mean teacher.batch? (and 1 more)",
    ),
    ("seed", " 0", " 0\nsede: 1", ": sede = 1: unknown key; did you mean seed?"),
    (
        "teacher",
        "    max: 1.0e-2\n",
        "    max: 1.0e-2\n    mux: 1\n",
        ": teacher.lr.mux = 1: unknown key; did you mean teacher.lr.max?",
    ),
    (
        "codec",
        "name:",
        "zzz: {a: 1}\n  name:",
        ': codec.zzz = {"a": 1}: unknown key; remove it (known here: name, path, sha256, channels, precision, stored, normalize)',
    ),
    (
        "student",
        "scd: {images",
        "ecd: {}\n  scd: {images",
        f": student.ecd = {{}}: unknown method; did you mean scd? {UNKNOWN}",
    ),
    ("student", "scd: {", "scd: {p_men: 1, ", ": student.scd.p_men = 1: unknown key; did you mean student.scd.p_mean?"),
    (
        "student",
        "scd: {",
        "scd: {lr: null, ",
        ": student.scd.lr = null: must be a mapping; write its keys indented below it",
    ),
    (
        "student",
        METHODS,
        "[scd, sct]",
        f': student.methods = ["scd", "sct"]: {MAP_EACH} {{scd: teacher, sct: teacher}}',
    ),
    ("student", METHODS, "[sct, icm]", f': student.methods = ["sct", "icm"]: {MAP_EACH} {{scd: teacher}}'),
    ("student", METHODS, "[[sct]]", f': student.methods = [["sct"]]: {MAP_EACH} {{scd: teacher}}'),
    ("student", METHODS, "[]", f": student.methods = []: {MAP_EACH} {{scd: teacher}}"),
    ("student", METHODS, "{}", f": student.methods = {{}}: {MAP_EACH} {{scd: teacher}}"),
    ("student", METHODS, "scd", f': student.methods = "scd": {MAP_EACH} {{scd: teacher}}'),
    (
        "student",
        METHODS,
        "{scd: teacher, icm: teacher}",
        f': student.methods = "icm": unknown method; did you mean rcm? {UNKNOWN}',
    ),
    ("student", METHODS, "{3: teacher}", f": student.methods = 3: unknown method; {UNKNOWN}"),
    ("student", METHODS, "{scd}", f": student.methods.scd = null: {NAME_IT}"),
    ("student", METHODS, "{scd: ' '}", f': student.methods.scd = " ": {NAME_IT}'),
    ("student", METHODS, "{scd: [teacher]}", f': student.methods.scd = ["teacher"]: {NAME_IT}'),
    (
        "student",
        "tangent: normalized",
        "tangent: clip",
        """: student.common.tangent = "clip": must be 'normalized', 'clipped' or 'raw'""",
    ),
    (
        "student",
        "adaptive_weighting: true",
        "adaptive_weighting: 1",
        ": student.common.adaptive_weighting = 1: must be true or false",
    ),
    (
        "student",
        "scd: {",
        "scd: {adaptive_weighting: null, ",
        ": student.scd.adaptive_weighting = null: must be true or false",
    ),
    (
        "student",
        "scd: {",
        "discrete: {images: 1Ki, dropout: 0.0}\n  scd: {",
        ": student.discrete.points: missing; add it",
    ),
    (
        "student",
        "scd: {",
        "discrete: {images: 1Ki, dropout: 0.0, points: 1}\n  scd: {",
        ": student.discrete.points = 1: must be at least 2",
    ),
    (
        "select",
        "guidance: {teacher: [1.0], student: [1.0]}",
        "guidance: 1.0",
        ": select.guidance = 1.0: must be a mapping; write its keys indented below it",
    ),
    (
        "select",
        "guidance: {teacher: [1.0], student: [1.0]}",
        "guidance: {teacher: [1.0]}",
        ": select.guidance.student: missing; add it (`scm preset show digits-plain` prints a complete set)",
    ),
    ("select", "{teacher: [1.0]", "{teacher: [-0.5, 1.0]", ": select.guidance.teacher.0 = -0.5: must be at least 0"),
    (
        "select",
        "{teacher: [1.0]",
        "{teacher: []",
        ": select.guidance.teacher = []: has too few entries; add what is missing",
    ),
    ("select", "coarse: null", "coarse: 1", ": select.coarse = 1: must be at least 2"),
    ("select", "progress: 4", "progress: 0", ": select.progress = 0: must be at least 1"),
    ("evaluate", "neighbours: 3", "neighbours: 0", ": evaluate.neighbours = 0: must be at least 1"),
    ("student", "sct: {", "sct: {guidance: [1.0, 2.0], ", GUIDED_SCT),
    (
        "student",
        "scd: {",
        "scd: {guidance: [2.0, 1.0], ",
        ": student.scd.guidance = [2.0, 1.0]: must name the smaller one first; correct the list",
    ),
    (
        "student",
        "scd: {",
        "scd: {guidance: [-1.0, 1.0], ",
        ": student.scd.guidance.0 = -1.0: must be at least 0",
    ),
    (
        "student",
        "scd: {",
        "multistep: {images: 1Ki, dropout: 0.0}\n  scd: {",
        ": student.multistep.segments: missing; add it",
    ),
    (
        "student",
        "scd: {",
        "vsd: {images: 1Ki, dropout: 0.0, vsd: {weight: 1.0, p_mean: 0.4, p_std: 2.0}}\n  scd: {",
        ": student.vsd.fake_score: missing; add it",
    ),
    (
        "teacher",
        "batch: 128",
        "batch: '128'",
        ': teacher.batch = "128": text, but must be a whole number; write 128 without quotes',
    ),
    (
        "student",
        "scd: {images: 128Ki",
        "scd: {batch: 256Ki, images: 128Ki",
        ': student.scd.batch = "256Ki": must be a whole number; write one such as 128',
    ),
    ("teacher", "batch: 128", "batch: true", ": teacher.batch = true: must be a whole number; write one such as 128"),
    ("teacher", "batch: 128", "batch: 0", ": teacher.batch = 0: must be at least 1"),
    (
        "teacher",
        "images: 320Ki",
        "images: 320ki",
        ': teacher.images = "320ki": must be a count; write a whole number or one such as 128Ki or 8Mi',
    ),
    (
        "teacher",
        "images: 320Ki",
        "images: -1",
        ": teacher.images = -1: must be a count; write a whole number or one such as 128Ki or 8Mi",
    ),
    (
        "teacher",
        "p_mean: -0.8",
        "p_mean: '1e-4'",
        ': teacher.p_mean = "1e-4": text, but must be a number; write 1.0e-4 without quotes',
    ),
    (
        "teacher",
        "p_mean: -0.8",
        "p_mean: '25e8'",
        ': teacher.p_mean = "25e8": text, but must be a number; write 2.5e+9 without quotes',
    ),
    (
        "teacher",
        "p_mean: -0.8",
        "p_mean: .nan",
        ": teacher.p_mean = NaN: must be a finite number; write one such as 0.5 or 1.0e-4",
    ),
    (
        "sampler",
        "rho: 7.0",
        "rho: .inf",
        ": sampler.rho = Infinity: must be a finite number; write one such as 0.5 or 1.0e-4",
    ),
    ("teacher", "label_dropout: 0.0", "label_dropout: 1.0", ": teacher.label_dropout = 1.0: must be less than 1"),
    ("teacher", "fp32", "fp64", """: teacher.precision = "fp64": must be 'auto', 'fp32', 'bf16' or 'fp16'"""),
    ("network", "edm2", "unet", """: network.architecture = "unet": must be 'ddpmpp', 'dit' or 'edm2'"""),
    ("teacher", "name: adam", "name: sgd", """: teacher.optimizer.name = "sgd": must be 'adam' or 'radam'"""),
    (
        "teacher",
        "decay: cosine",
        "decay: step",
        """: teacher.lr.decay = "step": must be 'constant', 'inverse_sqrt' or 'cosine'""",
    ),
    ("teacher", "[0.9, 0.99]", "[0.9]", ": teacher.optimizer.betas = [0.9]: has too few entries; add what is missing"),
    ("data", "path: data/raw", "path: ' '", ': data.path = " ": must not be empty; write a value'),
    ("data", "channels: 1", "channels: true", ": data.channels = true: must be a whole number; write one such as 128"),
    ("data", "channels: 1", "channels: 2", ": data.channels = 2: must be 1 or 3"),
    ("data", "labels: true", "labels: yes", ': data.labels = "yes": must be true or false'),
    ("data", "held_out: 0.0", "held_out: 1.0", ": data.held_out = 1.0: must be less than 1"),
    ("data", "held_out: 0.0", "held_out: -0.1", ": data.held_out = -0.1: must be at least 0"),
    ("reference", "held_out: 0.2", "held_out: 1.0", ": reference.classifier.held_out = 1.0: must be less than 1"),
    (
        "ema",
        "[0.05, 0.10]",
        "[0.05, 0.05]",
        ": ema.profiles = [0.05, 0.05]: must not name anything twice; correct the list",
    ),
    ("ema", "[0.05, 0.10]", "[0.05, 0.3]", ": ema.profiles.1 = 0.3: must be less than 0.2887"),
    ("ema", "[0.05, 0.10]", "0.05", ": ema.profiles = 0.05: must be a list; write [a, b]"),
    ("ema", "halflife: null", "halflife: 0", ": ema.halflife = 0: must be at least 1"),
    (
        "ema",
        "halflife: null",
        "halflife: 0.5",
        ": ema.halflife = 0.5: must be a count; write a whole number or one such as 128Ki or 8Mi",
    ),
    (
        "select",
        "{teacher: [0.05], student: [0.05, 0.10]}",
        "[0.05, 0.10]",
        ": select.sigma_rel = [0.05, 0.1]: must be a mapping; write its keys indented below it",
    ),
    ("select", "samples: 1797", "samples: 1", ": select.samples = 1: must be at least 2"),
    ("runtime", "device: auto", "device: tpu", """: runtime.device = "tpu": must be 'auto', 'cpu' or 'cuda'"""),
    ("runtime", "launcher: null", 'launcher: ""', ': runtime.launcher = "": must not be empty; write a value'),
    ("runtime", "threads: null", "threads: 0", ": runtime.threads = 0: must be at least 1"),
    ("runtime", "threads: null", "threads: null\n  shards: s3://bucket", f': runtime.shards = "s3://bucket": {GONE}'),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), ONE_KEY)
def test_a_wrong_value_is_told_with_key_value_and_remedy(tmp_path, name, old, new, message):
    assert fault(tmp_path, section(name, old, new)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty, but must be a mapping: write `key: value` lines"),
        ("- a\n", " is a list, but must be a mapping: write `key: value` lines"),
        ("a: 1\nb: [1\n", """:3 is not valid YAML (expected ',' or ']', but got '<stream end>'): correct that line"""),
        (
            "a: 1\na: 2\n",
            ':2 is not valid YAML (found duplicate key "a" with value "2" (original value: "1")): correct that line',
        ),
        (
            "a: !!python/object:os.system 1\n",
            ":1 is not valid YAML (could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'): correct that line",
        ),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, text, message):
    assert fault(tmp_path, text) == message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml is missing: run the command in the project's folder, or restore"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): check the file and its permissions"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match=r"latin\.yaml is not UTF-8 text: save it as UTF-8"):
        load(tmp_path / "latin.yaml")
