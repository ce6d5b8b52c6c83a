"""Objectives: plain functions from a model and a batch to a loss for each sample."""

from scm.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from scm.objectives.diffusion import Diffusion
from scm.objectives.discrete import DiscreteDistillation
from scm.objectives.multistep import MultistepDistillation
from scm.objectives.protocol import Batch, Losses, Objective
from scm.objectives.vsd import FakeScore, ScoreDistillation

__all__ = [
    "Batch",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Diffusion",
    "DiscreteDistillation",
    "FakeScore",
    "Losses",
    "MultistepDistillation",
    "Objective",
    "ScoreDistillation",
]
