"""The networks that params.yaml names: what the teacher starts from, what guides it, and every refusal in one line."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scm.base import weights
from scm.base.files import sha256
from scm.build.given import guide_of, start_teacher
from scm.build.models import network_settings, new_model
from scm.data.latents.codec import plain_header
from scm.errors import UserError
from scm.generation.trained import model_of
from scm.params import Params
from tests.support import originals
from tests.support.models import tiny_model
from tests.support.projects import params_with

SHAPE = {"resolution": 8, "channels": 1, "classes": 3, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}
CODEC, CLASSES = plain_header("identity", 0.5, [1, 8, 8]), ["a", "b", "c"]


@pytest.fixture
def pickle(tmp_path: Path) -> Path:
    network = originals.edm2_network(originals.filled(originals.edm2_shapes(**SHAPE)), channels_per_head=32)
    return originals.edm2_file(tmp_path / "edm2.pkl", network)


def own_file(path: Path, seed: int = 0, **changes: Any) -> Path:
    model = tiny_model(seed, classes=len(changes.get("classes", CLASSES)))
    header = {
        "model": "teacher", "network": model.settings.to_dict(), "classes": CLASSES, "codec": CODEC, "images": 64,
        "sigma_rel": 0.1, "precision": "fp32", "sigma_d": 0.5, "label_dropout": 0.0, **changes,
    }  # fmt: skip
    weights.save(path, model.state_dict(), header)
    return path


def params_of(key: str, file: str, digest: str | None, **changes: Any) -> Params:
    use = {"select.guidance.teacher": [1.0, 1.5]} if key == "select.guide" else {}
    return params_with({key: file, f"{key}_sha256": digest, **use, **changes})


def test_the_teacher_starts_from_the_file_and_its_header_says_so(tmp_path, pickle):
    """The path is one from the project's folder; the rest of the network is drawn as without a file."""
    params, lines = params_of("teacher.start", "edm2.pkl", sha256(pickle)), list[str]()
    settings = network_settings(params.network, 3, [1, 8, 8])
    model, before = (new_model(settings, params.teacher, 0) for _ in range(2))
    found = start_teacher(tmp_path, params, model, CODEC, CLASSES, lines.append)
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    assert found == {"start": {"file": "edm2.pkl", "sha256": sha256(pickle), "program": "EDM2", "licence": licence}}
    assert lines[0].startswith("starts from edm2.pkl (EDM2): 37 of 62 tensors copied") and "start afresh: " in lines[1]
    assert lines[-1] == f"licence of these weights, and of all models made from them: {licence}"
    theirs = originals.filled(originals.edm2_shapes(**SHAPE))
    state = model.state_dict()
    assert torch.equal(state["network.encoder.8x8_conv.weight"], theirs["unet.enc.8x8_conv.weight"])
    assert torch.equal(state["network.emb_noise.weight"], before.state_dict()["network.emb_noise.weight"])


def test_without_a_file_nothing_changes(tmp_path):
    params, model = params_with({}), tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_teacher(tmp_path, params, model, CODEC, CLASSES, pytest.fail) == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert guide_of(tmp_path, params, tmp_path / "snapshots") == (None, {})


@pytest.mark.parametrize("classes", [CLASSES, []])
def test_an_average_gets_its_guide(tmp_path, classes):
    """The guide may be of another size and without classes."""
    own_file(tmp_path / "snapshots/000000000064-0.100.safetensors")
    guide = own_file(tmp_path / "guide.safetensors", 3, classes=classes)
    params = params_of("select.guide", str(guide), sha256(guide))
    attach, origin = guide_of(tmp_path, params, tmp_path / "snapshots")
    assert attach is not None
    assert origin == {"guide": {"file": "guide.safetensors", "sha256": sha256(guide), "program": "scm"}}
    state, header = attach(weights.load(tmp_path / "snapshots/000000000064-0.100.safetensors"))
    made = model_of(state, header, "cpu").guide
    assert made is not None and made.settings.classes == len(classes)
    assert all(torch.equal(value, weights.load(guide)[0][name]) for name, value in made.state_dict().items())
    assert header["guide"].items() >= origin["guide"].items()


REFUSED = [
    ({}, None, "has the SHA-256 ", ", and params.yaml names none: if that is the file you mean and you trust"),
    ({}, "0" * 64, "has the SHA-256 ", f", not {{key}}_sha256 = {'0' * 64}: correct one of the two"),
    (
        {"codec": {**CODEC, "normalize": "measured"}}, True, "{key} = own.safetensors was trained on another encoding ",
        "(normalize: measured; of the data: none): change data.resolution or the section codec, or use another file",
    ),
    (
        {"classes": ["a", "b"]}, True, "{key} = own.safetensors was trained with 2 classes, ",
        "the data have 3: use another file",
    ),
    (
        {"classes": ["a", "c", "b"]}, True, "{key} = own.safetensors was trained with classes of other names than ",
        "the data have: use the same classes",
    ),
    ({"model": "scd"}, True, "own.safetensors: a scd, not a teacher", ""),
    (None, True, "{key} = own.safetensors: there is no such file; ", "docs/teachers.md says what can stand here"),
]  # fmt: skip


@pytest.mark.parametrize("key", ["teacher.start", "select.guide"])
@pytest.mark.parametrize(("changes", "digest", "first", "second"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, key, changes, digest, first, second):
    file = tmp_path / "own.safetensors"
    if changes is not None:
        own_file(file, **changes)
    found = sha256(file) if digest is True and changes is not None else None if digest is True else digest
    params = params_of(key, "own.safetensors", found, **{"network.width": 8, "network.channels_per_head": 8})
    own_file(tmp_path / "snapshots/000000000064-0.100.safetensors")
    model = tiny_model()
    use = partial(start_teacher, tmp_path, params, model, CODEC, CLASSES, pytest.fail)
    with pytest.raises(UserError) as caught:
        use() if key == "teacher.start" else guide_of(tmp_path, params, tmp_path / "snapshots")
    text = str(caught.value)
    assert "\n" not in text and first.format(key=key) in text and second.format(key=key) in text


def test_edm2s_latents_are_not_the_papers(tmp_path):
    """Its constants differ from those of codec sd_vae (method sec. 5), so that the weights would see other data."""
    shapes = originals.edm2_shapes(**{**SHAPE, "channels": 4})
    network = originals.edm2_network(originals.filled(shapes), channels_per_head=32)
    file = originals.edm2_file(tmp_path / "latents.pkl", network, originals.stability_encoder())
    params = params_of("teacher.start", "latents.pkl", sha256(file))
    codec = {**plain_header("sd_vae", 0.5, [4, 8, 8]), "normalize": "paper", "autoencoder": {"sha256": "0" * 64}}
    with pytest.raises(UserError, match=re.escape("encoding (name: edm2_sd_vae; of the data: sd_vae)")):
        start_teacher(tmp_path, params, tiny_model(), codec, CLASSES, pytest.fail)
