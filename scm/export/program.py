"""`scm export --to torch`: programs of torch.export, which torch alone loads and runs."""

from pathlib import Path

import torch

from scm.export.graph import Graph

BATCH = "batch"


def write_program(graph: Graph, path: Path) -> None:
    """Writes a program (.pt2) whose inputs and output may have any number of samples."""
    torch.export.save(program_of(graph), path)


def program_of(graph: Graph) -> torch.export.ExportedProgram:
    """The graph as a program of torch's operations."""
    examples = graph.eval().examples(2)
    with torch.no_grad():
        return torch.export.export(graph, examples, dynamic_shapes=(shapes(graph),), strict=False)


def shapes(graph: Graph) -> tuple[dict[int, torch.export.Dim], ...]:
    """For each input of the graph, its dimension of any size."""
    batch = torch.export.Dim(BATCH, min=1)
    return tuple({0: batch} for _ in graph.inputs)
