"""`scm export --to onnx`: one ONNX file for a number of steps."""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from scm.errors import UserError
from scm.export.graph import Graph
from scm.export.program import shapes

OPSET = 18
"""Version of ONNX's operators; onnxruntime, in browsers too, knows it since 2023."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold, since protobuf ends at 2 GiB."""
OUTPUT = "images"


def require_exporter() -> None:
    """Refuses an export before anything is loaded, if the libraries that write ONNX are missing."""
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise UserError(f"--to onnx needs {' and '.join(lacking)}: run `pip install -e '.[export]'`")


def write_onnx(graph: Graph, path: Path) -> None:
    """Writes the graph with its weights; inputs and output may have any number of samples.

    Raises:
        UserError: the weights are too many for one file.
    """
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    if size > LARGEST:
        raise UserError(f"--to onnx: {size:,} bytes of weights, and a file of ONNX holds 2 GiB: use --to torch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, which is not used, is missing
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own deprecated calls
        program = torch.onnx.export(
            graph.eval(),
            graph.examples(2),
            input_names=graph.inputs,
            output_names=[OUTPUT],
            dynamic_shapes=(shapes(graph),),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
