"""How fast an exported model draws on this CPU: `python -m benchmarks.export [MODEL] [--threads 1]`.

MODEL is what `scm.load` takes, such as models/scd, the default. For each of its numbers of steps it prints the
milliseconds of a batch, drawn by torch as `scm sample` draws, and by onnxruntime from the exported file. Both take
turns, and the fastest of ten turns counts; noise is drawn beforehand. The last column is torch's time divided by
onnxruntime's.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import scm
from scm.export.graph import Given, Graph
from scm.export.onnx_file import write_onnx
from scm.generation import trained
from scm.generation.generate import conditioned
from scm.samplers import SampleNoise

BATCHES, TURNS = (1, 8, 64), 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="models/scd")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = scm.load(options.model, device="cpu")
    print("| steps | images | torch, ms | onnxruntime, ms | torch / onnxruntime |\n|---|---|---|---|---|")
    for steps in model.steps:
        for images in BATCHES:
            theirs, ours = measured(model, steps, images, options.threads)
            print(f"| {steps} | {images} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.2f} |", flush=True)


def measured(model: scm.LoadedModel, steps: int, images: int, threads: int) -> tuple[float, float]:
    """Milliseconds of torch and of onnxruntime for a batch."""
    graph = Graph(model, steps)
    labels = torch.arange(images) % max(1, len(model.classes))
    noise = SampleNoise(range(images), model.shape)
    inputs = [labels if name == "class" else noise.draw() for name in graph.inputs]
    session = session_of(graph, threads)
    given = {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)}
    sampler = trained.sampler_of(model.header, steps, model.levels)

    def theirs() -> torch.Tensor:
        draws: Any = Given(inputs)
        return model.codec.decode(sampler.run(conditioned(model.network, labels, graph.guidance), draws))

    (drawn,) = session.run(None, given)
    assert (torch.from_numpy(drawn).int() - theirs().int()).abs().max() <= 1
    first, second = fastest([theirs, lambda: session.run(None, given)])
    return first, second


def session_of(graph: Graph, threads: int) -> Any:
    """The exported graph in onnxruntime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(graph, path)
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def fastest(works: Sequence[Callable[[], object]]) -> list[float]:
    """Milliseconds of each work, which take turns."""
    best = [float("inf")] * len(works)
    for _ in range(TURNS):
        for place, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[place] = min(best[place], 1000 * (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
