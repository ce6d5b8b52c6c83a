"""`scm import-teacher` in a project: what it writes, what it refuses, and that a failure leaves nothing behind."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image

from scm import cli
from scm.base import weights
from scm.data.latents.autoencoders import save_codec
from scm.data.latents.codec import plain_header
from scm.data.shards.shards import write_latents
from scm.generation import trained as trained_module
from scm.pipeline import importing
from scm.results.reading import read_curve, read_run
from scm.tracking.sync import record_of
from tests.support import originals, projects

SHAPE = {"resolution": 8, "channels": 1, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}
SNAPSHOTS = "models/teacher/snapshots"
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data/latents hold three grey images as pixels in [-1, 1]; its `dvc` only notes what is asked."""
    root = tmp_path / "project"
    root.mkdir()
    params = projects.make_project(root)
    text = params.read_text().replace("normalize: measured", "normalize: none")
    params.write_text(re.sub(r"(mlflow:.*\n  enabled:) true", r"\1 false", text))
    shutil.copy(projects.ROOT / "dvc.yaml", root / "dvc.yaml")
    write_data(root, DIGITS)
    monkeypatch.chdir(root)

    def dvc(root: Path, *arguments: str, check: bool) -> CompletedProcess[str]:
        with (root / "asked").open("a") as asked:
            asked.write(f"{arguments}\n")
        return CompletedProcess(arguments, 0)

    monkeypatch.setattr(importing, "dvc", dvc)
    return root


def write_data(root: Path, classes: list[str], **codec: object) -> None:
    images = [(f"{i}", np.full((1, 8, 8), 40 * i, np.uint8), i % len(classes) if classes else -1) for i in range(3)]
    header = {"classes": classes, "codec": {**plain_header("identity", 0.5, [1, 8, 8]), **codec}}
    write_latents(iter(images), root / "data/latents", 8, header)
    save_codec(root / "data/codec", header["codec"], None)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    network = originals.edm2_network(originals.filled(originals.edm2_shapes(**SHAPE, classes=10)), channels_per_head=32)
    return originals.edm2_file(tmp_path / "edm2-digits-s-0000131-0.075.pkl", network)


@pytest.fixture
def edm(tmp_path: Path) -> Path:
    network = originals.edm_network(originals.filled(originals.edm_shapes(**SHAPE, classes=10, augment=9), 0.1))
    return originals.dump({"ema": network}, tmp_path / "edm-digits-cond-vp.pkl")


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_the_teacher_becomes_the_stages_result(project, teacher, capsys):
    before = contents(project)
    assert cli.main(["import-teacher", str(teacher)]) == 0
    after = contents(project)
    snapshot = f"{SNAPSHOTS}/000000131072-0.075.safetensors"
    run_file, curve = "results/runs/train_teacher.json", "results/curves/train-teacher.csv"
    assert after.keys() - before.keys() == {snapshot, run_file, curve, "asked"}
    assert [name for name in before if before[name] != after[name]] == ["dvc.yaml"]
    line = b"  train_teacher:\n"
    assert after["dvc.yaml"] == before["dvc.yaml"].replace(line, line + b"    frozen: true\n", 1)
    assert after["asked"].decode() == "('repro', '--no-commit', 'train_teacher')\n('commit', 'train_teacher')\n"
    model, header = trained_module.load_model(project / snapshot)
    assert header["classes"] == DIGITS and (header["images"], header["sigma_rel"]) == (131072, 0.075)
    assert set(header["buffers"]) == {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    assert header["imported"]["program"] == "EDM2" and len(header["imported"]["sha256"]) == 64
    text = capsys.readouterr().out
    assert "EDM2, edm2, 0.7 M parameters, 8x8x1 (identity), 10 classes, average of sigma_rel 0.075" in text
    assert "remove that line and run `scm run --force --single-item train_teacher`" in text
    assert "CC BY-NC-SA 4.0 (non-commercial)" in text
    unstable = "network.embedding: fourier, network.c_noise: log_sigma, network.modulation: gain"
    assert f"tangent is unstable (sec. 4.1, fig. 4) by {unstable}: for a TrigFlow teacher that starts" in text


def test_the_run_and_the_curve_say_what_was_imported(project, teacher):
    cli.main(["import-teacher", str(teacher)])
    run = read_run(project / "results/runs/train_teacher.json")
    assert run["params"]["imported.file"] == teacher.name and run["params"]["network.c_noise"] == "log_sigma"
    assert not any(key.startswith("teacher.") for key in run["chain"] | run["params"])
    (row,) = read_curve(project / "results/curves/train-teacher.csv")
    assert row.keys() == {"images", "time"} and row["images"] == 131072
    with (project / "results/curves/train-teacher.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["images", "time", "loss", "squared_error"]
    record = record_of(project, project / "results/runs/train_teacher.json")
    assert record.name == f"train_teacher · imported {teacher.name}" and record.params["imported.program"] == "EDM2"


def test_images_are_drawn_from_it(project, teacher, tmp_path):
    cli.main(["import-teacher", str(teacher)])
    (snapshot,) = (project / SNAPSHOTS).iterdir()
    shutil.copy(snapshot, project / "models/teacher/model.safetensors")
    (project / "models/teacher/sampling.json").write_text('{"18": {"guidance_scale": 1.0}}')
    for name in ("a.png", "b.png"):
        options = ("--model", "teacher", "--steps", "3", "-n", "6", "--classes", "0,1,2", "-o", str(tmp_path / name))
        assert cli.main(["sample", *options]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        grid = np.asarray(picture)
    assert grid.shape[1] / grid.shape[0] == pytest.approx(1.5, rel=0.1) and grid.std() > 1
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_teacher_of_unknown_length(project, edm, capsys):
    cli.main(["import-teacher", str(edm)])
    header = weights.read_header(project / f"{SNAPSHOTS}/000000000000-imported.safetensors")
    assert (header["classes"], header["images"], header["sigma_rel"]) == (DIGITS, 0, None)
    assert "10 classes, average of unknown length" in capsys.readouterr().out
    cli.main(["import-teacher", str(edm), "--sigma-rel", "0.0036"])
    assert [file.name for file in (project / SNAPSHOTS).iterdir()] == ["000000000000-0.004.safetensors"]
    assert (project / "dvc.yaml").read_text().count("frozen") == 1


def test_a_teacher_of_ours_and_of_ours_that_was_imported(project, teacher, tmp_path, capsys):
    cli.main(["import-teacher", str(teacher)])
    (snapshot,) = (project / SNAPSHOTS).iterdir()
    first, copy = snapshot.read_bytes(), shutil.copy(snapshot, tmp_path / "own.safetensors")
    capsys.readouterr()
    cli.main(["import-teacher", str(copy)])
    assert "CC BY-NC-SA" in capsys.readouterr().out
    assert weights.load(snapshot)[0].keys() == weights.load(copy)[0].keys() and snapshot.read_bytes() != first
    state, header = weights.load(Path(copy))
    del header["imported"], header["format"]
    weights.save(Path(copy), state, header)
    cli.main(["import-teacher", str(copy)])
    assert "CC BY-NC-SA" not in capsys.readouterr().out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the dvc command of this name fail, after it has written into dvc.lock."""

    def fail(name: str) -> None:
        def dvc(root: Path, *arguments: str, check: bool) -> CompletedProcess[str]:
            with (root / "dvc.lock").open("a") as lock:
                lock.write("changed in place\n")
            return CompletedProcess(arguments, int(arguments[0] == name), stderr="ERROR: no space\n")

        monkeypatch.setattr(importing, "dvc", dvc)

    return fail


@pytest.mark.parametrize("command", ["repro", "commit"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_failure_leaves_nothing_behind(project, teacher, failing, capsys, command, trained):
    if trained:
        for path in (f"{SNAPSHOTS}/a.safetensors", f"{SNAPSHOTS}/b.safetensors", "results/runs/train_teacher.json"):
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_text(path)
        (project / "results/curves").mkdir()
        (project / "results/curves/train-teacher.csv").write_text("images\n1\n")
        (project / "dvc.lock").write_text("as it was\n")
    before = contents(project)
    failing(command)
    assert refusal(capsys, str(teacher)).endswith(" train_teacher` failed, and nothing was changed: no space\n")
    assert contents(project) == before


def test_a_write_that_fails_leaves_nothing_behind(project, teacher, monkeypatch):
    before = contents(project)
    monkeypatch.setattr(importing, "write_curve", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["import-teacher", str(teacher)]) == 130
    assert contents(project) == before


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["import-teacher", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("scm: error: ") and error.count("\n") == 1
    return error.removeprefix("scm: error: ")


def test_the_data_must_be_there(project, teacher, capsys):
    shutil.rmtree(project / "data")
    assert refusal(capsys, str(teacher)) == (
        f"{project}/data/latents is missing, and the teacher must fit the data: run `scm run encode` first\n"
    )


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"normalize: none": "normalize: measured"}, "write codec.normalize: none into params.yaml and run `scm run"),
        (
            {"resolution: 8": "resolution: 16", "attention: [4]": "attention: [8]"},
            "write data.resolution: 8 into params.yaml and run `scm run encode`",
        ),
        ({"sigma_d: 0.5": "sigma_d: 0.6"}, "write network.sigma_d: 0.5 into params.yaml and run `scm run encode`"),
        ({}, ": run `scm run encode`"),
    ],
)
def test_the_data_must_be_what_it_was_trained_on(project, teacher, capsys, change, remedy):
    params = project / "params.yaml"
    for old, new in change.items():
        assert old in params.read_text()
        params.write_text(params.read_text().replace(old, new))
    write_data(project, DIGITS, normalize="measured", mean=[0.1])
    before = contents(project)
    error = refusal(capsys, str(teacher))
    assert error.startswith(f"{teacher} was trained on another encoding than {project}/data/latents holds: ")
    assert remedy in error and contents(project) == before


def test_the_codec_that_it_needs_is_named(project, tmp_path, capsys):
    shapes = originals.edm2_shapes(**{**SHAPE, "channels": 4}, classes=10)
    network = originals.edm2_network(originals.filled(shapes), channels_per_head=32)
    path = originals.edm2_file(tmp_path / "latents.pkl", network, originals.stability_encoder())
    remedy = "write data.resolution: 64, codec.name: edm2_sd_vae, data.channels: 3, codec.normalize: paper"
    assert remedy in refusal(capsys, str(path))


@pytest.mark.parametrize(("classes", "number"), [([], 0), (["cat", "dog"], 2)])
def test_the_classes_must_be_the_datas(project, teacher, capsys, classes, number):
    write_data(project, classes)
    assert f"was trained with 10 classes, but {project}/data/latents has {number}" in refusal(capsys, str(teacher))


def test_a_teacher_without_classes_wants_data_without(project, tmp_path, capsys):
    network = originals.edm_network(originals.filled(originals.edm_shapes(**SHAPE, classes=0), 0.1))
    path = originals.dump({"ema": network}, tmp_path / "edm-digits-uncond-vp.pkl")
    assert refusal(capsys, str(path)).endswith("has 10: write data.labels: false into params.yaml\n")
    write_data(project, [])
    assert cli.main(["import-teacher", str(path)]) == 0
    assert "no classes" in capsys.readouterr().out


def test_the_order_of_the_classes_must_be_the_datas(project, teacher, tmp_path, capsys):
    cli.main(["import-teacher", str(teacher)])
    (snapshot,) = (project / SNAPSHOTS).iterdir()
    copy = shutil.copy(snapshot, tmp_path / "own.safetensors")
    write_data(project, DIGITS[::-1])
    capsys.readouterr()
    assert "classes of other names" in refusal(capsys, str(copy))


@pytest.mark.parametrize("value", ["0", "0.3", "-1", "nan"])
def test_a_length_that_does_not_exist_is_refused(project, teacher, capsys, value):
    assert refusal(capsys, str(teacher), f"--sigma-rel={value}").startswith(f"--sigma-rel {float(value):g}: must lie")


def test_a_malicious_file_is_one_line(project, tmp_path, capsys):
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x04cposix\nsystem\n\x8c\x0ctouch markers\x85R.")
    assert refusal(capsys, str(path)).startswith(f"{path}: refused posix.system: ")
    assert "asked" not in contents(project) and not (project / "markers").exists()


def test_the_snapshots_numbers_are_the_files(project, teacher):
    cli.main(["import-teacher", str(teacher)])
    state, header = weights.load(project / f"{SNAPSHOTS}/000000131072-0.075.safetensors")
    tensors = originals.filled(originals.edm2_shapes(**SHAPE, classes=10))
    assert torch.equal(state["network.emb_label.weight"], tensors["unet.emb_label.weight"])
    assert torch.equal(state["network.out_gain"], -tensors["unet.out_gain"])
    assert json.dumps(header["codec"], sort_keys=True) == json.dumps(
        plain_header("identity", 0.5, [1, 8, 8]), sort_keys=True
    )
