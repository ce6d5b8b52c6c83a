"""`scm export`: what is written draws the images of `scm sample`, without scm, for any number of samples."""

import io
import subprocess
import sys
import urllib.error

import pytest
import torch

import scm
from scm import cli
from scm.errors import UserError
from scm.export import browser, onnx_file
from scm.export.graph import Graph
from scm.export.write import Wanted, export_onnx
from tests.support import projects as shipped
from tests.support.exported import expected, inputs_of

LOADER = """
import sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scm":
            raise ImportError(f"{name} is not installed here")

inputs = torch.load("inputs.pt")
sys.meta_path.insert(0, Blocked())
torch.save(torch.export.load("program/steps-1.pt2").module()(*inputs), "images.pt")
"""


@pytest.mark.parametrize(
    ("name", "steps", "names"),
    [
        ("scd", 1, ["noise", "class"]),
        ("scd", 2, ["noise", "noise_2", "class"]),
        ("multistep", 2, ["noise", "class"]),
        ("sct", 1, ["noise"]),
    ],
)
def test_a_graph_draws_what_the_sampler_draws(root, name, steps, names):
    model, labels = scm.load(root / "models" / name), [2, 0, 1]
    graph = Graph(model, steps)
    assert graph.inputs == names
    assert torch.equal(graph(*inputs_of(graph, labels)), expected(model, labels, steps))


def test_the_weights_of_the_model_stay_as_they_are(root):
    model = scm.load(root / "models/scd")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    Graph(model, 1)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())


@pytest.mark.slow
def test_a_program_draws_the_same_with_torch_alone(here, tmp_path, monkeypatch):
    assert cli.main(["export", "--to", "torch", "--model", "scd", "--steps", "1", str(tmp_path / "program")]) == 0
    model = scm.load("models/scd")
    (tmp_path / "load.py").write_text(LOADER)
    torch.save(inputs_of(Graph(model, 1), [0, 1, 2, 1, 0]), tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "load.py"], cwd=tmp_path, check=True)
    assert torch.equal(torch.load(tmp_path / "images.pt"), expected(model, [0, 1, 2, 1, 0], 1))
    files = {path.name for path in (tmp_path / "program").iterdir()}
    assert files == {"README.md", "model.json", "steps-1.pt2"}
    told = (tmp_path / "program/README.md").read_text()
    code = told.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path / "program")
    exec(code, names := {})
    assert names["images"].shape == (4, 1, 8, 8) and "# sCD: images in few steps" in told


@pytest.mark.slow
def test_a_package_is_drawn_from_anywhere(here, tmp_path, monkeypatch, capsys):
    assert cli.main(["export", "--to", "package", "--model", "scd", str(tmp_path / "new/portable")]) == 0
    assert "MLmodel" in capsys.readouterr().out
    model = scm.load("models/scd")
    monkeypatch.chdir(tmp_path)
    found = scm.load("new/portable")
    assert torch.equal(found.sample([1]).tensor, model.sample([1]).tensor)
    assert found.card.startswith("# sCD: images in few steps")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "torch", "taken"], "taken: exists and is not an empty folder; give the name of a new one"),
        (
            ["--to", "torch", "params.yaml"],
            "params.yaml: exists and is not an empty folder; give",
        ),
        (
            ["--to", "torch", "--model", "scd", "--steps", "3", "new"],
            "--steps 3: scd is sampled in 1 or 2; write --steps 2, or --model teacher",
        ),
        (
            ["--to", "torch", "--model", "scd", "--guidance", "3", "new"],
            "--guidance 3: scd was trained for 1 to 2; choose from there",
        ),
        (
            ["--to", "torch", "--model", "teacher", "new"],
            "--model teacher: only a student's few steps are exported; `--to package` takes a teacher too",
        ),
        (
            ["--to", "package", "--steps", "2", "new"],
            "--steps: a package takes the project's model with all of its steps; leave the option out",
        ),
        (["--to", "torch", "params.yaml/new"], "params.yaml is no folder; choose another place"),
        (["--to", "torch", "--no-page", "new"], "--no-page: only --to onnx writes a page; leave the option out"),
        (["--to", "torch", "--from", "nowhere", "new"], "nowhere: no model; give models/NAME of a project"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_written(here, capsys, arguments, message):
    (here / "taken").mkdir(exist_ok=True)
    (here / "taken/file").touch()
    assert cli.main(["export", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (here / "new").exists()


def test_a_model_that_is_not_trained_is_told_of(tmp_path, monkeypatch, capsys):
    shipped.make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--to", "torch", "new"]) == 1
    assert capsys.readouterr().err.endswith("models/scd/model.safetensors is missing: run `scm run` to make it\n")


def test_onnx_without_its_libraries_is_refused(here, capsys, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    assert cli.main(["export", "--to", "onnx", "new"]) == 1
    assert capsys.readouterr().err == (
        "scm: error: --to onnx needs onnx and onnxscript: run `pip install -e '.[export]'`\n"
    )


def test_a_page_that_cannot_be_fetched_is_told_of_before_anything_is_written(root, tmp_path, monkeypatch):
    wanted = Wanted(scm.load(root / "models/scd"), (1,), None, "# Card")

    def failing(*_: object, **__: object) -> io.BytesIO:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(browser.urllib.request, "urlopen", failing)
    with pytest.raises(UserError, match=r"onnxruntime-web-[\d.]+tgz cannot be fetched \(no route to host\): try again"):
        export_onnx(wanted, tmp_path / "new", page=True)
    monkeypatch.setattr(browser.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"another file"))
    with pytest.raises(UserError, match=r"its SHA-512 is not that of onnxruntime-web"):
        export_onnx(wanted, tmp_path / "new", page=True)
    assert not (tmp_path / "new").exists()
