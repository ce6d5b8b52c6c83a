"""A small training: endless synthetic images, settings of the loop, and what a run has left."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from scm.base import weights
from scm.base.distributed import Ranks
from scm.networks.model import LogWeight
from scm.objectives.diffusion import Diffusion
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.score_distillation import FakeScore, ScoreDistillation
from scm.training import loop
from scm.training.diagnosis import Context, Diagnosis, Finding
from scm.training.record import SNAPSHOTS
from scm.training.schedule import Schedule
from scm.training.settings import LoopSettings
from tests.support.models import tiny_model

ALONE = Ranks(0, 1, torch.device("cpu"))


class Digits:
    """Endless synthetic images, each class with a brightness of its own; this rank's part of each batch."""

    def __init__(self, batch: int, ranks: Ranks = ALONE) -> None:
        self.batch, self.ranks = batch, ranks

    def batch_at(self, images_seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(images_seen)
        labels, share = torch.arange(self.batch) % 3, self.batch // self.ranks.world
        x_0 = torch.randn(self.batch, 1, 8, 8, generator=draws) * 0.1 + 0.6 * (labels[:, None, None, None] - 1)
        own = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        return x_0[own], labels[own]


def settings(**changes: object) -> LoopSettings:
    """Ten steps of 16 images, two profiles, four snapshots; `changes` to these."""
    values = {
        "images": 160, "batch": 16, "seed": 0, "purpose": "test", "optimizer": "adam", "betas": (0.9, 0.99),
        "eps": 1e-11, "schedule": Schedule(1e-2, 32, "cosine", 64, 160), "profiles": (0.05, 0.1), "halflife": None,
        "snapshots": 4, "half_precision": False, "header": {"network": {}}, "log_every": 32, "checkpoint_every": 48,
        "checkpoint_minutes": None,
    }  # fmt: skip
    return LoopSettings(**{**values, **changes})  # type: ignore[arg-type]


def trainer(
    work: Path, *, stopping=lambda: False, objective=None, ranks=ALONE, dropout=0.2, say=lambda text: None, **changes
) -> loop.Trainer:
    """A tiny diffusion model's training in a folder; `changes` to its settings."""
    objective = objective or Diffusion(0.5, -0.8, 1.6)
    data = Digits(16, ranks)
    model = tiny_model(dropout=dropout)
    return loop.Trainer(model, objective, data, settings(**changes), work, ranks, stopping, say)


def result(work: Path) -> dict[str, torch.Tensor]:
    """The weights of each snapshot, by the file's name."""
    return {file.name: weights.load(file)[0] for file in sorted((work / SNAPSHOTS).glob("*.safetensors"))}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name][key]) for name, state in one.items() for key, value in state.items()
    )


def score_distillation(updates: int = 1) -> ScoreDistillation:
    """VSD's objective with a consistency part; `updates` of the fake score for one of the student."""
    teacher = tiny_model(5).eval().requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        fake = FakeScore(tiny_model(5, dropout=0.1), LogWeight())
    common = {"sigma_d": 0.5, "teacher": teacher}
    return ScoreDistillation(
        **common, t_max=1.56, weight=1.0, p_mean=0.4, p_std=2.0, fake=fake, fake_p_mean=-0.8, fake_p_std=1.6,
        updates=updates, consistency=ConsistencyDistillation(**common, p_mean=-1.0, p_std=1.4),
    )  # fmt: skip


def diagnose(lines: Iterable[Mapping[str, Any]], context: Context) -> list[Finding]:
    """All findings of a run with these lines of metrics.jsonl."""
    diagnosis = Diagnosis(context)
    for line in lines:
        diagnosis.add(line)
    return diagnosis.findings
