"""`scm sample`: which sampler and guidance scale a model is drawn with, and every refusal by its text."""

import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from scm import cli
from scm.base import weights
from scm.base.files import write_json
from scm.base.yaml_files import render
from scm.errors import UserError
from scm.generation.classes import class_numbers
from scm.generation.sampler import Sampler
from scm.generation.trained import NoiseLevels, guided_by, own_steps, sampler_of, scale_of
from scm.params import Params
from scm.params.project import Project
from scm.results.provenance import chain, run_entry
from tests.support import projects as shipped
from tests.support.models import T_MAX, save_model, tiny_model

HEADER = {
    "model": "scd",
    "sigma_d": 0.5,
    "t_max": T_MAX,
    "network": {"guidance": False},
    "sampling": {1: {"guidance_scale": 1.0}},
}
GUIDED = {
    **HEADER,
    "network": {"guidance": True},
    "guidance": [1.2, 2.0],
    "sampling": {1: {"guidance_scale": 1.8}, 2: {"guidance_scale": 1.6, "t_mid": 0.9}},
}
TEACHER = {
    "model": "teacher",
    "sigma_d": 0.5,
    "network": {"guidance": False},
    "sampling": {18: {"guidance_scale": 1.3}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    shipped.make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sampled(**changes: Any) -> int:
    """The exit code of `scm sample` with some of these options changed; None leaves an option out."""
    values = {"model": "scd", "steps": 2, "count": 6, "output": "grid.png", "device": "cpu", **changes}
    return cli.main(["sample", *(f"--{name}={value}" for name, value in values.items() if value is not None)])


def drawn(params: Params, header: dict[str, Any], steps: int) -> Sampler:
    return sampler_of(header, steps, NoiseLevels(*params.sampler.noise_levels))


def times_of(sampler: Any) -> list[float]:
    """Times at which a sampler asks for F."""
    seen: list[float] = []

    def function(x: torch.Tensor, t: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    sampler.run(function, SimpleNamespace(draw=lambda: torch.zeros(1, 1, 2, 2)))
    return seen


@pytest.mark.parametrize(
    ("header", "asked", "scale"),
    [
        (HEADER, None, 1.0),
        (HEADER, 1.0, 1.0),
        ({**TEACHER, "label_dropout": 0.1}, None, 1.3),
        ({**TEACHER, "label_dropout": 0.1}, 0.0, 0.0),
        ({**TEACHER, "label_dropout": 0.1}, 2.5, 2.5),
        ({**TEACHER, "guide": {}}, 2.5, 2.5),
        (GUIDED, 1.2, 1.2),
        (GUIDED, 2.0, 2.0),
        (GUIDED, None, 1.6),
    ],
)
def test_the_scale_is_the_selected_one_or_what_was_asked_for(header, asked, scale):
    assert scale_of(header, 2, asked) == scale


@pytest.mark.parametrize(
    ("header", "asked", "message"),
    [
        (HEADER, 1.5, "--guidance 1.5: scd was not trained for guidance; leave the option out"),
        (TEACHER, 1.5, "--guidance 1.5: teacher was not trained for guidance; leave the option out"),
        (
            {**TEACHER, "label_dropout": 0.0}, 0.0,
            "--guidance 0: teacher was not trained for guidance; leave the option out",
        ),
        (GUIDED, 2.1, "--guidance 2.1: scd was trained for 1.2 to 2; choose from there"),
        ({**TEACHER, "label_dropout": 0.1}, -0.5, "--guidance -0.5: must be a number from 0 on, such as 1.5"),
        (GUIDED, math.nan, "--guidance nan: must be a number from 0 on, such as 1.5"),
        ({**TEACHER, "label_dropout": 0.1}, math.inf, "--guidance inf: must be a number from 0 on, such as 1.5"),
    ],
)  # fmt: skip
def test_a_scale_that_the_model_does_not_know_is_refused(header, asked, message):
    with pytest.raises(UserError) as caught:
        scale_of(header, 2, asked)
    assert str(caught.value) == message


def test_each_number_of_steps_has_its_own_scale():
    """Other numbers take the scale of the next smaller one, or of the smallest."""
    assert [scale_of(GUIDED, steps, None) for steps in (1, 2, 3, 9)] == [1.8, 1.6, 1.6, 1.6]
    assert [scale_of(TEACHER, steps, None) for steps in (1, 18, 50)] == [1.3] * 3
    any_steps = {**GUIDED, "sampling": {steps: {"guidance_scale": steps / 4 + 1} for steps in (1, 2, 4)}}
    assert [scale_of(any_steps, steps, None) for steps in (1, 2, 3, 4, 8)] == [1.25, 1.5, 1.5, 2.0, 2.0]


def test_samplers_by_model_and_steps():
    params = shipped.params_with({})
    t_max = T_MAX
    teacher = drawn(params, TEACHER, 4)
    assert teacher.nfe == 7 == len(times_of(teacher))
    student = {**HEADER, "sampling": {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.9}}}
    expected = {1: [t_max], 2: [t_max, 0.9]}
    for steps, times in expected.items():
        sampler = drawn(params, student, steps)
        assert sampler.nfe == steps and times_of(sampler) == pytest.approx(times)
    vsd = drawn(params, {**HEADER, "model": "vsd"}, 1)
    assert vsd.nfe == 1 and times_of(vsd) == pytest.approx([t_max])
    jumps = drawn(params, {**HEADER, "model": "multistep", "segments": 3, "sampling": {3: {"guidance_scale": 1.0}}}, 3)
    assert jumps.nfe == 3 and times_of(jumps) == pytest.approx([t_max, t_max * 2 / 3, t_max / 3])
    flow_map = {**HEADER, "model": "ayf", "any_steps": True}
    flow_map["sampling"] = {steps: {"guidance_scale": 1.0} for steps in (1, 2, 4)}
    assert own_steps(flow_map) == (1, 2, 4)
    for steps in (1, 3, 8):
        assert times_of(drawn(params, flow_map, steps)) == pytest.approx(
            [t_max * k / steps for k in range(steps, 0, -1)]
        )


@pytest.mark.parametrize(
    ("header", "steps", "message"),
    [
        (
            {**HEADER, "model": "vsd"}, 2,
            "--steps 2: vsd is sampled in 1; write --steps 1, or --model teacher",
        ),
        (
            {**HEADER, "sampling": {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.9}}}, 4,
            "--steps 4: scd is sampled in 1 or 2; write --steps 2, or --model teacher",
        ),
        (
            {**HEADER, "model": "multistep", "segments": 4, "sampling": {4: {"guidance_scale": 1.0}}}, 2,
            "--steps 2: multistep is sampled in 4; write --steps 4, or --model teacher",
        ),
    ],
)  # fmt: skip
def test_steps_that_the_model_was_not_made_for_are_refused(header, steps, message):
    with pytest.raises(UserError) as caught:
        drawn(shipped.params_with({}), header, steps)
    assert str(caught.value) == message


def test_a_guide_in_the_teachers_file_guides_and_counts_twice(project, capsys):
    """It needs no label dropout; at scale 1 the pictures are those of the teacher alone."""
    save_model(project, "teacher")
    assert sampled(model="teacher", steps=3) == 0
    with Image.open("grid.png") as picture:
        alone = picture.tobytes()
    file, guide = project / "models/teacher/model.safetensors", tiny_model(7, width=16, classes=0)
    state, header = weights.load(file)
    entry = {"network": guide.settings.to_dict(), "file": "guide.pkl"}
    weights.save(file, *guided_by(state, header, guide.state_dict(), entry))
    capsys.readouterr()
    for scale, evaluations, same in ((None, 5, True), (1.0, 5, True), (2.0, 10, False)):
        assert sampled(model="teacher", guidance=scale, steps=3) == 0
        assert f" {evaluations} network evaluations each, " in capsys.readouterr().err
        with Image.open("grid.png") as picture:
            assert (picture.tobytes() == alone) == same
    weights.save(file, state, {**header, "guide": entry})
    assert sampled(model="teacher", steps=3) == 1
    assert "the weights do not fit their header (guide.log_weight_head." in capsys.readouterr().err


def test_pictures_are_drawn_and_guidance_counts(project, capsys):
    """A guided teacher is evaluated twice for each step, and what it draws is something else."""
    save_model(project, "teacher", label_dropout=0.1)
    save_model(project, "scd", t_mid=0.9)
    save_model(project, "sct", t_mid=0.9, guidance=[1.0, 2.0])
    pictures = {}
    cases = [
        ("teacher", None, 3, "5"), ("teacher", 1.0, 3, "5"), ("teacher", 2.0, 3, "10"), ("scd", None, 2, "2"),
        ("sct", None, 2, "2"), ("sct", 1.0, 2, "2"), ("sct", 2.0, 2, "2"),
    ]  # fmt: skip
    for model, guidance, steps, evaluations in cases:
        assert sampled(model=model, guidance=guidance, steps=steps) == 0
        assert capsys.readouterr().err.startswith(f"grid.png: 6 images, {evaluations} network evaluations each, ")
        with Image.open("grid.png") as picture:
            pictures[model, guidance] = picture.tobytes()
    assert pictures["teacher", None] == pictures["teacher", 1.0] != pictures["teacher", 2.0]
    assert pictures["sct", None] == pictures["sct", 1.0] and len(pictures) == 7
    save_model(project, "teacher", label_dropout=0.1, scale=2.0)
    assert sampled(model="teacher", steps=3) == 0
    assert capsys.readouterr().err.startswith("grid.png: 6 images, 10 network evaluations each, ")
    with Image.open("grid.png") as picture:
        assert picture.tobytes() == pictures["teacher", 2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vsd"}, "--model vsd: params.yaml has teacher, scd, sct; use one of them"),
        ({"output": "a.jpg"}, "-o a.jpg: pictures are written as PNG; give a name that ends in .png"),
        ({"output": "there/a.png"}, "-o there/a.png: there is no folder; choose another place"),
        ({"output": "made.png"}, "-o made.png: made.png is a folder; choose another place"),
        ({"steps": 3}, "--steps 3: scd is sampled in 1 or 2; write --steps 2, or --model teacher"),
        ({"seed": -1}, "--seed -1: must be between 0 and 2^63 - 1 less the number of images"),
        ({"classes": "four"}, "--classes four: no such class; this model has zero, one, two (or numbers 0 to 2)"),
        ({"classes": "3"}, "--classes 3: no such class; this model has zero, one, two (or numbers 0 to 2)"),
        ({"guidance": 1.5}, "--guidance 1.5: scd was not trained for guidance; leave the option out"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(project, capsys, changes, message):
    save_model(project, "scd", t_mid=0.9)
    (project / "there").touch()
    (project / "made.png").mkdir()
    assert sampled(**changes) == 1
    assert capsys.readouterr().err == f"scm: error: {message}\n"
    assert [path.name for path in project.rglob("*.png")] == ["made.png"]


def test_by_default_a_model_is_drawn_in_its_own_steps(project, capsys):
    """The teacher in sampler.teacher_steps, a student in its most; publish.model if no model is named."""
    save_model(project, "teacher")
    save_model(project, "scd", t_mid=0.9)
    save_model(project, "sct")
    for model, evaluations in (("teacher", 35), ("scd", 2), ("sct", 1), (None, 2)):
        assert sampled(model=model, steps=None, count=1) == 0
        assert f": 1 images, {evaluations} network evaluations each, " in capsys.readouterr().err


def test_a_picture_says_what_drew_it(project, capsys):
    save_model(
        project, "sct", t_mid=0.9, guidance=[1.0, 2.0], scale=1.5, classes=["zero", "caf\u00e9 \u2603\x1b", "two"]
    )
    run = {"key": "k", "stage": "select_ema", "item": "sct", "name": "n", "params": {}, "deps": {}, "started": 0.0}
    entry = run_entry(Project.open(project), **run, chain=chain(Project.open(project), "sct"))
    write_json(project / "results/runs/select_ema@sct.json", {**entry, "commit": "0123456789abcdef", "dirty": True})
    assert sampled(model="sct", steps=None, seed=7, classes="2,1", output="new/folder/grid.png") == 0
    assert capsys.readouterr().err.splitlines()[0] == "scm sample: made the folder new/folder"
    with Image.open("new/folder/grid.png") as picture:
        told = dict(picture.text)
    assert told == {
        "model": "sct", "commit": "0123456789 + changes", "images": "6", "seed": "7",
        "class": "two, caf\u00e9 \u2603\\x1b", "steps": "2", "guidance": "1.5", "t_mid": "0.9",
    }  # fmt: skip
    assert sampled(model="sct", steps=1, count=1, classes="0") == 0
    with Image.open("grid.png") as picture:
        told = dict(picture.text)
    assert "t_mid" not in told and "images" not in told and (told["class"], told["steps"]) == ("zero", "1")


def test_a_wrong_class_is_refused_before_torch_is_imported(project):
    save_model(project, "scd", t_mid=0.9)
    script = (
        "import sys; from scm import cli; code = cli.main(['sample', '--model', 'scd', '--classes', 'four']); "
        "sys.exit(code + 2 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--classes four: no such class; this model has zero, one, two" in done.stderr


def test_classes_by_name_or_number():
    names = ["zero", "1", "two"]
    assert class_numbers(["two", "1", "0"], names) == [2, 1, 0]
    assert (class_numbers(None, names), class_numbers(None, [])) == ([0, 1, 2], [-1])
    with pytest.raises(UserError, match=r"^--classes: this model was trained without classes; leave the option out$"):
        class_numbers(["0"], [])


def test_a_model_that_params_no_longer_ask_for_is_drawn_with_a_word(project, capsys):
    save_model(project, "scd", t_mid=0.8)
    made_with = chain(Project.open(project), "scd")
    facts = {"key": "k", "stage": "select_ema", "item": "scd", "name": "n", "params": {}, "deps": {}, "started": 0.0}
    run = run_entry(Project.open(project), **facts, chain=made_with)
    write_json(project / "results/runs/select_ema@scd.json", run)

    def said(changes: dict[str, Any]) -> str:
        (project / "params.yaml").write_text(render(shipped.values_with(changes)))
        assert sampled() == 0
        return "".join(line for line in capsys.readouterr().err.splitlines() if "made with" in line)

    assert (
        said({})
        == said({"evaluate.seed": 2_000_000, "sampler.rho": 5.0, "teacher.images": made_with["teacher.images"]})
        == ""
    )
    which = "network.width: 32 (params.yaml: 64)"
    assert said({"network.width": 64}) == (
        f"scm sample: models/scd was made with {which}; `scm run` makes it as params.yaml says"
    )
    assert f"{which} and 1 more; " in said({"network.width": 64, "teacher.batch": 64})
