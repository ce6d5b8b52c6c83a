"""A step on a GPU, played by the CPU: one device, no waiting, and what a step that is not finite leaves."""

import json
import math
from dataclasses import replace

import pytest
import torch

from scm.base.distributed import Ranks
from scm.base.randomness import seed_of
from scm.errors import Interrupted, UserError
from scm.objectives import kd
from scm.training import loop
from scm.training.record import METRICS
from scm.training.settings import Auxiliary
from tests.support import gpu as fake
from tests.support.gpu import CUDA, Gpu
from tests.support.loops import Digits, settings
from tests.support.models import FAMILIES, tiny_model
from tests.training.test_micro_batches import TWO_TIMES, objectives

NAMES = [
    "diffusion", "diffusion, augmented", "sct", "scd, guided", "discrete", "multistep", "facm, two times", "kd, guided",
    "vsd", "scd + vsd",
]  # fmt: skip
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture
def gpu(monkeypatch):
    """The GPU, on which everything is from here on."""
    machine = Gpu()
    for module in (loop, kd):
        monkeypatch.setattr(module, "generator", lambda *names, device: fake.Generator().manual_seed(seed_of(*names)))
    monkeypatch.setattr(torch.cuda, "Event", fake.Event)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: machine.put(tensor.clone(), "pinned"))
    with machine.running():
        yield machine


def trainer(gpu, work, name, family="edm2-trigflow", precision="fp32", stopping=lambda: False, **changes):
    """A training whose networks are on the GPU."""
    objective = objectives()[name]
    network = {**FAMILIES[family], "multipliers": (1,), "attention": (8,)}
    inputs = {
        "guidance": getattr(objective, "guidance", None) is not None,
        "segments": isinstance(objective, TWO_TIMES),
        "augment": "augmented" in name,
    }
    model = tiny_model(1, dropout=0.3, **network, **inputs)
    model.precision = TYPES[precision]
    auxiliary = getattr(objective, "fake", None)
    gpu.take(*(module for module in (model, auxiliary, getattr(objective, "teacher", None)) if module))
    changes = {"batch": 2, "half_precision": precision == "fp16", **changes}
    one = loop.Trainer(
        model, objective, Digits(2), settings(**changes), work, Ranks(0, 1, CUDA), stopping, print,
        Auxiliary(auxiliary) if auxiliary else None,
    )  # fmt: skip
    one.trained.train()
    return one


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow", "dit-trigflow"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_never_waits_for_the_gpu(gpu, tmp_path, name, family, precision):
    one = trainer(gpu, tmp_path, name, family, precision)
    if name in ("discrete", "kd, guided"):
        one._step()  # which copies the grid to the GPU, once
    gpu.strict = True
    one._step()
    assert len(one.outcomes._sent) == 1


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda x, y: x + y, "aten::add takes tensors of both devices"),
        (lambda x, y: x[torch.zeros(2, dtype=torch.int64)], "aten::index takes tensors of both devices"),
        (lambda x, y: float(x.sum()), "__float__ makes the host wait"),
        (lambda x, y: 1 if x.sum() > 0 else 0, "__bool__ makes the host wait"),
        (lambda x, y: x.tolist(), "tolist makes the host wait"),
        (lambda x, y: x[x > 0], "aten::index makes the host wait"),
        (lambda x, y: x.to("cpu"), "a copy of gpu memory, non_blocking=False, makes the host wait"),
        (lambda x, y: y.to(x.device, non_blocking=True), "a copy of cpu memory, non_blocking=True, makes"),
        (lambda x, y: x.copy_(y), "aten::copy_ makes the host wait"),
    ],
)
def test_the_gpu_that_is_played_finds(gpu, wrong, problem):
    """Otherwise the test above would say nothing."""
    gpu.strict = True
    x, y = torch.ones(2, device=CUDA), torch.ones(2)
    assert x.device == (x * 2 + torch.arange(2, device=x.device)).device == CUDA and y.device.type == "cpu"
    with pytest.raises(AssertionError, match=f"^{problem}"):
        wrong(x, y)


class Bad:
    """An objective that answers NaN on the steps after so many images."""

    def __init__(self, objective, *images: int) -> None:
        self.objective, self.images = objective, images

    def __call__(self, model, batch, images_seen):
        losses = self.objective(model, batch, images_seen)
        return replace(losses, value=losses.value * math.nan) if images_seen in self.images else losses


def state(one: loop.Trainer) -> list[torch.Tensor]:
    moments = [one.optimizer.state[parameter] for parameter in one.parameters]
    sorted_moments = [state[name] for state in moments for name in sorted(state)]
    return [value.detach().clone() for value in (*one.parameters, *sorted_moments)]


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_a_step_that_is_not_finite_leaves_a_gpus_weights_and_moments(gpu, tmp_path, optimizer):
    one = trainer(gpu, tmp_path, "sct", optimizer=optimizer)
    one.objective = Bad(one.objective, 0, 4)
    weights = state(one)
    one._step()
    first = state(one)
    assert all(map(torch.equal, weights, first)) and not any(value.any() for value in first[len(weights) :])
    one._step()
    second = state(one)
    assert len(second) > len(weights) and not any(map(torch.equal, second[len(weights) :], first[len(weights) :]))
    one._step()
    assert all(map(torch.equal, second, state(one)))
    one._take_outcomes(newest=True)
    assert one.skipped == 2 and one.skipped_in_a_row == 1 and one.health._nonfinite


def run_of(gpu, work, bad=(), stops=(), **changes) -> tuple[loop.Trainer, list[dict]]:
    """A run of six steps on the GPU, with the lines of its metrics but for times and speeds."""
    asked = iter([*stops, *[False] * 100])
    one = trainer(gpu, work, "sct", images=12, log_every=4, stopping=lambda: next(asked), **changes)
    one.objective = Bad(one.objective, *bad)
    one.run()
    lines = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    for line in lines:
        for name in ("time", "images_per_second", "data_wait"):
            del line[name]
    return one, lines


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_a_gpus_run_that_was_interrupted_ends_with_the_same_bits(gpu, tmp_path, optimizer):
    changes = {"bad": (2, 6), "optimizer": optimizer, "half_precision": True, "checkpoint_every": 4}
    whole, lines = run_of(gpu, tmp_path / "whole", **changes)
    assert [(line["images"], line["skipped"], line["loss_scale"]) for line in lines] == [
        (4, 1, 2**15), (8, 2, 2**14), (12, 2, 2**14),
    ]  # fmt: skip
    assert any(name.startswith("nonfinite/loss/") for name in lines[0])
    with pytest.raises(Interrupted, match="stopped at 8 of 12 images"):  # asked in the step before
        run_of(gpu, tmp_path / "parts", stops=[False, False, True], **changes)
    parts, again = run_of(gpu, tmp_path / "parts", **changes)
    assert again == lines and all(map(torch.equal, state(whole), state(parts)))
    assert all(map(torch.equal, whole.averages.state().values(), parts.averages.state().values()))


def test_a_gpus_run_that_diverges_ends(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED", 3)
    with pytest.raises(UserError, match="diverged: 3 steps in a row without a finite gradient"):
        one = trainer(gpu, tmp_path, "sct", images=100)
        one.objective = Bad(one.objective, *range(0, 100, 2))
        one.run()
