"""Objectives under data parallelism: two processes' losses and gradients are one's."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scm.base import weights
from scm.base.distributed import Ranks
from scm.networks.model import LogWeight
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.score_distillation import FakeScore, ScoreDistillation
from scm.training.gradients import GradientMean
from tests.support.models import tiny_model
from tests.support.processes import together


class Wrapped(nn.Module):
    """A model behind torch's own DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parallel = DistributedDataParallel(model)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.parallel(x, t, labels)

    def log_weight(self, t: Tensor) -> Tensor:
        return self.parallel.module.log_weight(t)


def part(ranks: Ranks) -> Batch:
    """This rank's part of a batch of 8."""
    count = 8 // ranks.world
    x_0 = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    own = slice(ranks.rank * count, (ranks.rank + 1) * count)
    return Batch(x_0[own], (torch.arange(8) % 3)[own], torch.Generator().manual_seed(1), ranks.rank, ranks.world)


def gradients(ranks: Ranks, *, wrap: bool) -> dict[str, Tensor]:
    """Of an sCD step over a batch of 8, this rank's part of it computed here."""
    model, teacher = tiny_model(1), tiny_model(2).requires_grad_(False)
    objective = ConsistencyDistillation(sigma_d=0.5, p_mean=-1.0, p_std=1.4, teacher=teacher)
    network = Wrapped(model) if wrap else model  # kept until after backward, whose hooks belong to it
    mean = GradientMean(() if wrap else model.parameters(), ranks)
    loss = objective(network, part(ranks), 1).value.mean()
    with mean.last_part():
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def score_distillation(ranks: Ranks, updates: int) -> dict[str, Tensor]:
    """Losses, parts and gradients of a guided sCD + VSD step over a batch of 8; with 2 updates without the student."""
    model, teacher = tiny_model(1, guidance=True), tiny_model(2).requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        fake = FakeScore(tiny_model(3, guidance=True), LogWeight())
    common = {"sigma_d": 0.5, "teacher": teacher, "guidance": (1.0, 2.0), "label_dropout": 0.2}
    objective = ScoreDistillation(
        **common, t_max=1.56, weight=0.5, p_mean=0.4, p_std=2.0, fake=fake, fake_p_mean=-0.8, fake_p_std=1.6,
        updates=updates, consistency=ConsistencyDistillation(**common, p_mean=-1.0, p_std=1.4),
    )  # fmt: skip
    losses = objective(model, part(ranks), 1)
    both = nn.ModuleDict({"model": model, "fake": fake})
    with GradientMean(both.parameters(), ranks).last_part():
        losses.value.mean().backward()
    found = {name: p.grad for name, p in both.named_parameters() if p.grad is not None}
    for name, each in {"whole": losses, **losses.parts}.items():
        for kind, values in (("loss", each.value.detach()), ("time", each.t)):
            where = torch.zeros(8)
            where[ranks.rank * len(values) : (ranks.rank + 1) * len(values)] = values
            found[f"{kind} of {name}"] = ranks.total(where)
    return found


def compute(ranks: Ranks, folder: Path) -> None:
    for file in ("loop", "ddp", "vsd1", "vsd2"):
        vsd = file.startswith("vsd")
        computed = score_distillation(ranks, int(file[-1])) if vsd else gradients(ranks, wrap=file == "ddp")
        if ranks.rank == 0:
            weights.save(folder / file, computed, {})
    ranks.wait()


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    together(2, compute, tmp_path)
    alone = Ranks(0, 1, torch.device("cpu"))
    scd = gradients(alone, wrap=False)
    both, fake = (score_distillation(alone, updates) for updates in (1, 2))
    assert any(key.startswith("model.") for key in both) and not any(key.startswith("model.") for key in fake)
    for name, expected, tolerance in (
        ("loop", scd, 1e-6),
        ("ddp", scd, 1e-6),
        ("vsd1", both, 1e-5),
        ("vsd2", fake, 1e-5),
    ):
        found, _ = weights.load(tmp_path / name)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert torch.allclose(value, expected[key], rtol=tolerance, atol=tolerance), (name, key)
