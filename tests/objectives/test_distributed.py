"""The tangent under data parallelism: two processes' gradients are one's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scm import weights
from scm.objectives import Batch, ConsistencyDistillation
from scm.training.distributed import Ranks
from tests.helpers import tiny_model

ROOT = Path(__file__).parents[2]


class Wrapped(nn.Module):
    """A model behind torch's own DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parallel = DistributedDataParallel(model)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.parallel(x, t, labels)

    def log_weight(self, t: Tensor) -> Tensor:
        return self.parallel.module.log_weight(t)


def gradients(ranks: Ranks, *, wrap: bool) -> dict[str, Tensor]:
    """Of an sCD step over a batch of 8, this rank's part of it computed here."""
    model, count = tiny_model(1), 8 // ranks.world
    objective = ConsistencyDistillation(0.5, -1.0, 1.4, 0.1, 0, teacher=tiny_model(2).requires_grad_(False))
    x_0 = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    own = slice(ranks.rank * count, (ranks.rank + 1) * count)
    draws = torch.Generator().manual_seed(1)
    batch = Batch(x_0[own], (torch.arange(8) % 3)[own], draws, ranks.rank, ranks.world)
    network = Wrapped(model) if wrap else model  # kept until after backward, whose hooks belong to it
    objective(network, batch, 1).value.mean().backward()
    if not wrap:
        ranks.average_gradients(list(model.parameters()))
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = gradients(Ranks(0, 1, torch.device("cpu")), wrap=False)
    for name in ("loop", "ddp"):
        found, _ = weights.load(tmp_path / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.allclose(found[key], value, rtol=0, atol=1e-6), (name, key)


if __name__ == "__main__":
    group = Ranks.join("cpu")
    for file, wrapped in (("loop", False), ("ddp", True)):
        computed = gradients(group, wrap=wrapped)
        if group.rank == 0:
            weights.save(Path(sys.argv[1]) / file, computed, {})
    group.wait()
    group.leave()
