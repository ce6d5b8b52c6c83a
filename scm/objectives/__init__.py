"""Objectives: plain functions from a model and a batch to a loss for each sample."""

from scm.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Batch, Losses, Objective

__all__ = ["Batch", "ConsistencyDistillation", "ConsistencyTraining", "Diffusion", "Losses", "Objective"]
