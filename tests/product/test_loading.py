"""`scm.load`: a model of a project, of a package and of the registry, drawn from and denoised with in Python."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import scm
from scm import cli, trigflow
from scm.errors import UserError
from scm.product.packaging import champion_address, log_version
from tests.product.conftest import copied
from tests.support.models import T_MAX, save_model

IMPORTS = "import scm, sys; assert scm.__version__ and not {'torch', 'numpy'} & sys.modules.keys()"


@pytest.fixture(scope="module")
def model(project) -> scm.LoadedModel:
    return scm.load(project.root / "models/scd")


def test_importing_scm_imports_nothing_until_it_is_used():
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    with pytest.raises(AttributeError, match="module 'scm' has no attribute 'laod'"):
        _ = scm.laod  # type: ignore[attr-defined]


def test_a_model_says_what_it_can(model, project):
    assert (model.name, model.classes, model.steps, model.default_steps) == ("scd", ("zero", "one", "two"), (1, 2), 2)
    assert (model.resolution, model.shape, model.sigma_d, model.guidance) == (8, (1, 8, 8), 0.5, None)
    teacher = scm.load(project.root / "models/teacher")
    assert (teacher.steps, teacher.guidance) == ((18,), (0.0, math.inf))
    assert repr(model) == "<LoadedModel scd: 3 classes, 8 x 8 pixels, steps 1, 2, on cpu>"


@pytest.mark.parametrize("steps", [1, 2])
def test_images_are_those_of_the_command(model, project, packed, monkeypatch, tmp_path, steps):
    """Bit for bit, from a project and from a package."""
    monkeypatch.chdir(project.root)
    images = model.sample([2, "zero"], steps=steps, seed=7, count=5)
    assert images.tensor.shape == (5, 1, 8, 8) and images.tensor.dtype == torch.uint8
    assert images.classes == ("two", "zero", "two", "zero", "two") and images.seeds == range(7, 12)
    for source in ([], ["--from", str(packed)], ["--from", str(packed / "artifacts/product")]):
        output = tmp_path / "grid.png"
        options = ["--steps", str(steps), "--classes", "2,zero", "--seed", "7", "-n", "5", "-o", str(output)]
        assert cli.main(["sample", *options, *source]) == 0
        with Image.open(output) as picture:
            assert picture.tobytes() == images.grid(2).tobytes()


def test_pictures_have_the_pixels_of_the_tensor(model):
    images = model.sample(["one"], count=3)
    pictures = images.pil()
    assert len(images) == len(pictures) == 3 and pictures[0].mode == "L"
    assert [list(each.tobytes()) for each in pictures] == [each.flatten().tolist() for each in images.tensor]
    assert (images.steps, images.evaluations, len(model.sample())) == (2, 2, 3)


def test_a_model_denoises_as_eq_5_says(model):
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.1])
    expected = trigflow.denoise(x, t, model.network(x / 0.5, t, torch.tensor([2, 0])), 0.5)
    assert torch.equal(model.denoise(x, t, [2, "zero"]), expected)
    assert torch.equal(model.denoise(x, 0.3, ["one"])[0], model.denoise(x, torch.tensor(0.3), [1, 1])[0])
    x = x.requires_grad_()
    model.denoise(x, 1.0, [0]).sum().backward()
    assert x.grad is not None and not any(each.requires_grad for each in model.network.parameters())


def test_one_step_is_the_consistency_function_of_noise(model):
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(4))[None]
    image = model.codec.decode(model.denoise(0.5 * noise, T_MAX, [1]))
    assert torch.equal(image, model.sample([1], steps=1, seed=4).tensor)


def test_a_student_of_segments_is_denoised_in_the_first_one(tmp_path, project):
    root = copied(project, tmp_path).root
    save_model(root, "multistep", segments=2)
    found = scm.load(root / "models/multistep")
    with pytest.raises(UserError, match=r"^t 1.5: multistep has its way to the data above 0 and up to 0.7823$"):
        found.denoise(torch.zeros(1, 1, 8, 8), 1.5, [0])


def test_the_teacher_is_packaged_too(packed, project):
    teacher = scm.load(packed, "teacher")
    assert (teacher.name, teacher.default_steps) == ("teacher", 18)
    assert torch.equal(
        teacher.sample([0], steps=3).tensor, scm.load(project.root / "models/teacher").sample([0], steps=3).tensor
    )
    assert teacher.denoise(torch.zeros(1, 1, 8, 8), 1.0).shape == (1, 1, 8, 8)  # it was trained without labels too


@pytest.mark.slow
def test_an_address_of_the_registry(project, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    own = copied(project, tmp_path)
    version = log_version(own, "scd", {}, "champion")
    from mlflow import MlflowClient

    MlflowClient(own.tracking.store).set_registered_model_alias(own.params.registered_name, "champion", version)
    monkeypatch.chdir(own.root)
    found = scm.load(champion_address(own))
    assert torch.equal(found.sample([1]).tensor, scm.load("models/scd").sample([1]).tensor)
    with pytest.raises(UserError, match=r"^models:/digits@nobody: cannot be loaded: "):
        scm.load("models:/digits@nobody")


def test_an_address_without_a_project_needs_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    import mlflow

    monkeypatch.setattr(mlflow.tracking, "is_tracking_uri_set", lambda: False)
    with pytest.raises(UserError, match=r"^models:/digits/1: there is no project here; set MLFLOW_TRACKING_URI to the"):
        scm.load("models:/digits/1")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes(tmp_path, project):
    root = copied(project, tmp_path).root
    save_model(root, "sct", classes=[], t_mid=0.8)
    found = scm.load(root / "models/sct")
    assert found.sample(count=2).classes == ()
    with pytest.raises(UserError, match=r"^classes: this model was trained without classes; leave the option out$"):
        found.sample([0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": [3]}, "classes 3: no such class; this model has zero, one, two (or numbers 0 to 2)"),
        ({"classes": [-1]}, "classes -1: no such class; this model has zero, one, two (or numbers 0 to 2)"),
        ({"classes": "zero"}, "classes 'zero': must be a list of names or numbers, such as [3, 7]"),
        ({"classes": []}, "classes []: must be a list of names or numbers, such as [3, 7]"),
        ({"steps": 3}, "steps 3: scd is sampled in 1 or 2; write steps 2, or --model teacher"),
        ({"steps": 0}, "steps 0: must be a whole number from 1 on"),
        ({"count": 0}, "count 0: must be a whole number from 1 on"),
        ({"seed": -1}, "seed -1: must be a whole number from 0 on"),
        ({"seed": 2**63}, f"seed {2**63}: must be between 0 and 2^63 - 1 less the number of images"),
        ({"guidance": 2.0}, "guidance 2: scd was not trained for guidance; leave the option out"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, asked, message):
    with pytest.raises(UserError) as error:
        model.sample(**asked)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 3, 8, 8), 1.0, [0]), "x is torch.float32 [1, 3, 8, 8]: must be float [B, 1, 8, 8]"),
        ((torch.zeros(2, 1, 8, 8), torch.ones(3), [0]), "t is [3]: must be a number, or one for each of 2 samples"),
        ((torch.zeros(1, 1, 8, 8), 0, [0]), "t 0: must lie above 0 and up to 1.5708"),
        ((torch.zeros(1, 1, 8, 8), 1.0), "classes: scd was not trained without labels; name one for each sample"),
        ((torch.zeros(3, 1, 8, 8), 1.0, [0, 1]), "classes: 2 for 3 samples; name one for each, or one for all"),
    ],
)
def test_what_cannot_be_denoised_is_refused(model, arguments, message):
    with pytest.raises(UserError) as error:
        model.denoise(*arguments)
    assert str(error.value) == message


def test_what_is_no_model_is_refused(project, packed, tmp_path):
    for address in (tmp_path, tmp_path / "absent", "scd"):
        with pytest.raises(UserError, match=r": no model; give models/NAME of a project, a package's folder"):
            scm.load(address)
    with pytest.raises(UserError, match=r"^model sct: .* has scd and teacher; use one of them$"):
        scm.load(packed, "sct")
    with pytest.raises(UserError, match=r"^model sct: .*models/scd holds one model; load .*models/sct$"):
        scm.load(project.root / "models/scd", "sct")
    with pytest.raises(UserError, match=r"^device tpu: must be auto, cpu or cuda$"):
        scm.load(packed, device="tpu")
    with pytest.raises(UserError, match=r"alone is not inside the project: no dvc.yaml here or above"):
        scm.load(Path(shutil.copytree(project.root / "models/scd", tmp_path / "alone")))


def test_a_package_needs_no_project(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample", "--from", str(packed), "-n", "1", "--model", "teacher", "--steps", "2"]) == 0
    with Image.open("grid.png") as picture:
        assert picture.text["model"] == "teacher" and picture.text["steps"] == "2"  # type: ignore[attr-defined]


def test_a_package_edits_as_the_project_does(project, packed, tmp_path, monkeypatch):
    given = tmp_path / "given.png"
    Image.new("L", (4, 4), 200).save(given)
    options = ["edit", str(given), "--task", "upscale", "--classes", "two,zero", "--seed", "3", "-n", "2"]
    monkeypatch.chdir(project.root)
    assert cli.main([*options, "-o", str(tmp_path / "ours.png")]) == 0
    monkeypatch.chdir(tmp_path)
    assert cli.main([*options, "--from", str(packed), "-o", "packed.png"]) == 0
    ours, theirs = (Image.open(tmp_path / f"{name}.png") for name in ("ours", "packed"))
    assert ours.tobytes() == theirs.tobytes() and len(set(ours.tobytes())) > 10
    assert theirs.text["task"] == "upscale"  # type: ignore[attr-defined]
