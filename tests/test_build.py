"""The factory: students begin as their teachers."""

import pytest
import torch

from scm import build
from scm.errors import UserError
from scm.params.schema import Runtime, StudentMethod
from tests.helpers import FAMILIES, tiny_model

METHOD = {
    "batch": 8, "precision": "fp32", "p_mean": -1.0, "p_std": 1.4,
    "optimizer": {"name": "adam", "betas": (0.9, 0.99), "eps": 1e-8},
    "lr": {"max": 1e-3, "warmup": 0, "decay": "constant", "decay_from": 0}, "dropout_max_resolution": 16,
    "label_dropout": 0.0, "tangent_norm_c": 0.1, "tangent_warmup": 0, "images": 8, "dropout": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"guidance": (1.0, 2.0)}, {"guidance": (1.0, 2.0), "segments": 2}])
def test_a_student_begins_as_its_teacher_whatever_its_method_adds(family, changes):
    teacher = tiny_model(**FAMILIES[family]).eval()
    student = build.new_student(teacher, StudentMethod(**METHOD, **changes), seed=0).eval()
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2]), torch.tensor([1, -1])
    given = {"guidance": torch.tensor([1.0, 1.7])} if changes else {}
    given |= {"segment": torch.tensor([0.0, 0.7])} if "segments" in changes else {}
    assert torch.equal(student(x, t, labels, **given), teacher(x, t, labels))
    assert not student.log_weight(t).any() and teacher.log_weight(t).all()
    assert student.settings.guidance == bool(changes) and student.settings.c_noise == teacher.settings.c_noise


def test_a_students_new_weights_follow_from_the_seed():
    teacher = tiny_model()
    one, same, other = (build.new_student(teacher, StudentMethod(**METHOD), seed) for seed in (0, 0, 1))
    assert torch.equal(one.log_weight_head.features.freqs, same.log_weight_head.features.freqs)
    assert not torch.equal(one.log_weight_head.features.freqs, other.log_weight_head.features.freqs)


def runtime(**changes: object) -> Runtime:
    values = {"device": "cpu", "threads": None, "processes": 1, "compile": True, "log_every": 1, "checkpoint_every": 1}
    return Runtime(**{**values, **changes})  # type: ignore[arg-type]


def test_a_network_is_compiled_if_asked_and_its_weights_keep_their_names(monkeypatch):
    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, options: calls.append(module))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    model = tiny_model()
    names = list(model.state_dict())
    assert build.compiled(model, runtime(compile=False), torch.device("cpu")) is model and not calls
    assert build.compiled(model, runtime(), torch.device("cpu")) is model and calls == [model.network]
    assert list(model.state_dict()) == names


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^runtime.compile is true, but there is no C\+\+ compiler: install g\+\+"):
        build.compiled(tiny_model(), runtime(), torch.device("cpu"))
