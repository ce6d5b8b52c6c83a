"""What an exported model is given, and what it has to draw for that."""

import torch

from scm.export.graph import Graph
from scm.generation.loaded import LoadedModel
from scm.samplers import SampleNoise


def inputs_of(graph: Graph, labels: list[int], seed: int = 0) -> tuple[torch.Tensor, ...]:
    """The inputs with which a graph draws what `sample` draws for these classes and seeds from `seed` on."""
    noise = SampleNoise(range(seed, seed + len(labels)), graph.shape)
    return tuple(torch.tensor(labels) if name == "class" else noise.draw() for name in graph.inputs)


def expected(model: LoadedModel, labels: list[int], steps: int) -> torch.Tensor:
    return model.sample(labels if model.classes else None, steps=steps, count=len(labels)).tensor
