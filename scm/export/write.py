"""`scm export`: writes a student's folder in one of the forms, with what people and programs need to know of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.base.files import replacing_folder, write_json, write_text
from scm.export import browser, onnx_file, program
from scm.export.graph import CLASS, Graph
from scm.generation.loaded import LoadedModel
from scm.report.wording import display_name

ABOUT, README = "model.json", "README.md"
Write = Callable[[Graph, Path], None]


@dataclass(frozen=True)
class Wanted:
    """What is exported.

    Attributes:
        loaded: a student on the CPU.
        steps: numbers of steps, a file for each.
        guidance: guidance scale; None = the one chosen for each number of steps.
        card: the model's card in Markdown.
    """

    loaded: LoadedModel
    steps: Sequence[int]
    guidance: float | None
    card: str


def export_onnx(wanted: Wanted, folder: Path, page: bool) -> None:
    """Writes steps-N.onnx for each number of steps, and the page that runs them in a browser."""
    archive = browser.fetched() if page else None
    with replacing_folder(folder) as temporary:
        _write(wanted, temporary, "onnx", onnx_file.write_onnx, ONNX + (PAGE if page else ""))
        if archive is not None:
            browser.write_page(temporary, archive)


def export_torch(wanted: Wanted, folder: Path) -> None:
    """Writes steps-N.pt2 for each number of steps."""
    with replacing_folder(folder) as temporary:
        _write(wanted, temporary, "pt2", program.write_program, TORCH)


def _write(wanted: Wanted, folder: Path, suffix: str, write: Write, usage: str) -> None:
    files: dict[str, Any] = {}
    for steps in wanted.steps:
        graph = Graph(wanted.loaded, steps, wanted.guidance)
        name = f"steps-{steps}.{suffix}"
        write(graph, folder / name)
        files[str(steps)] = {"file": name, "inputs": graph.inputs, "guidance": graph.guidance}
    write_json(folder / ABOUT, about(wanted, files))
    last = files[str(wanted.steps[-1])]
    write_text(folder / README, readme(wanted, usage, last["file"], last["inputs"]))


def about(wanted: Wanted, files: dict[str, Any]) -> dict[str, Any]:
    """Facts for programs, such as the page."""
    loaded = wanted.loaded
    return {
        "name": loaded.name, "title": display_name(loaded.name), "classes": list(loaded.classes),
        "shape": list(loaded.shape), "resolution": loaded.resolution, "commit": loaded.commit, "steps": files,
    }  # fmt: skip


def readme(wanted: Wanted, usage: str, file: str, inputs: Sequence[str]) -> str:
    """How the files are used, and below that the model's card."""
    shape = ", ".join(map(str, wanted.loaded.shape))
    noise, conditional = [name for name in inputs if name != CLASS], CLASS in inputs
    torch_inputs = [f"torch.randn(4, {shape})" for _ in noise]
    onnx_inputs = [f'"{name}": draw.standard_normal((4, {shape}), dtype=numpy.float32)' for name in noise]
    if conditional:
        torch_inputs.append("torch.tensor([0] * 4)")
        onnx_inputs.append(f'"{CLASS}": numpy.zeros(4, dtype=numpy.int64)')
    given = {
        "FILE": file,
        "TORCH": ", ".join(torch_inputs),
        "ONNX": ", ".join(onnx_inputs),
        "INPUTS": f"{', '.join(f'`{name}`' for name in noise)}: standard normal noise, float32 [B, {shape}]",
        "CLASSES": f" `{CLASS}`: numbers of classes, int64 [B]." if conditional else "",
    }
    for name, value in given.items():
        usage = usage.replace(f"@{name}@", value)
    return f"{usage}\n{wanted.card}"


COMMON = """\
Inputs: @INPUTS@.@CLASSES@
Output: uint8 images [B, C, H, W], for any B.
The sampler's steps are inside; the network computes in float32.
model.json has the names of the classes and each file's inputs.

"""
TORCH = f"""\
# How to use this folder

```python
import torch

draw = torch.export.load("@FILE@").module()
images = draw(@TORCH@)
```

{COMMON}"""
ONNX = f"""\
# How to use this folder

```python
import numpy
import onnxruntime

session = onnxruntime.InferenceSession("@FILE@")
draw = numpy.random.default_rng(0)
(images,) = session.run(None, {{@ONNX@}})
```

{COMMON}"""
PAGE = f"""\
`python -m http.server` in this folder shows index.html on http://localhost:8000/, where the browser itself draws.
Any server of static files will do; nothing is loaded from elsewhere.
Its noise is torch's on a CPU, so a seed gives the image that `scm sample` draws.
The folder onnxruntime-web holds onnxruntime-web {browser.VERSION} (Microsoft, MIT licence).

"""
