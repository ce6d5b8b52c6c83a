"""What is trained beside the model (VSD's fake score): the same steps, a rate of its own, resumed, and not kept."""

import pytest
import torch

from scm.base import weights
from scm.errors import Interrupted
from scm.training import checkpoint, loop
from scm.training.settings import Auxiliary
from tests.support.loops import ALONE, Digits, equal, result, score_distillation, settings
from tests.support.models import tiny_model


def trainer(work, *, updates=1, lr_scale=0.5, stopping=lambda: False, **changes) -> loop.Trainer:
    method = score_distillation(updates)
    auxiliary = Auxiliary(method.fake, lr_scale)
    return loop.Trainer(
        tiny_model(dropout=0.2), method, Digits(16), settings(**changes), work, ALONE, stopping, lambda text: None,
        auxiliary=auxiliary,
    )  # fmt: skip


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    trainer(tmp_path / "whole").run()
    stops = iter([False, False, True, False, True, *[False] * 9])
    for _ in range(2):
        with pytest.raises(Interrupted):
            trainer(tmp_path / "parts", stopping=lambda: next(stops)).run()
    trainer(tmp_path / "parts").run()
    assert equal(result(tmp_path / "whole"), result(tmp_path / "parts"))
    whole, parts = (weights.load(tmp_path / name / checkpoint.FILE)[0] for name in ("whole", "parts"))
    assert equal({"state": whole}, {"state": parts})
    assert any(".log_weight_head.linear.bias" in key and key.startswith("model.1.") for key in whole)


def test_it_is_trained_with_its_own_rate_and_not_kept(tmp_path):
    one = trainer(tmp_path)
    before = {name: value.clone() for name, value in one.trained[1].state_dict().items()}
    one.run()
    model, fake = one.optimizer.param_groups
    assert fake["lr"] == 0.5 * model["lr"] > 0
    assert {id(p) for p in fake["params"]} == {id(p) for p in one.trained[1].parameters()}
    after = one.trained[1].state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"network.network", "network.log_weight_head", "log_weight_head.linear"} <= {
        ".".join(name.split(".")[:2]) for name in changed
    }
    kept = next(iter(result(tmp_path).values()))
    assert kept.keys() == one.model.state_dict().keys()


def test_a_rate_of_zero_leaves_it_as_it_was(tmp_path):
    one = trainer(tmp_path, lr_scale=0.0)
    before = {name: value.clone() for name, value in one.trained[1].named_parameters()}
    one.run()
    vectors = {name: value for name, value in one.trained[1].named_parameters() if value.ndim < 2}
    assert vectors and all(torch.equal(value, before[name]) for name, value in vectors.items())  # no unit rows


def test_between_the_students_updates_the_fake_score_learns_alone(tmp_path):
    """With updates = 2 the student moves in every other step, the fake score in each."""
    one = trainer(tmp_path, updates=2)
    parts = [list(module.parameters()) for module in one.trained]
    moved = []
    for _ in range(4):
        before = [[p.detach().clone() for p in part] for part in parts]
        one._step()
        changes = [
            max(float((p.detach() - old).abs().max()) for p, old in zip(part, olds, strict=True))
            for part, olds in zip(parts, before, strict=True)
        ]
        moved.append([change > 1e-5 for change in changes])  # less is the rounding of the weights' normalisation
    assert moved[1:] == [[True, True], [False, True], [True, True]]  # the first step's learning rate is 0
