"""`scm sample`: draws images from a trained model of this project, or of a package."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from scm.base.documents import is_there
from scm.base.files import replacing
from scm.commands.arguments import command, names, whole
from scm.errors import UserError, printable

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from scm.generation.loaded import LoadedModel
    from scm.params.project import Project
    from scm.results.reading import Run

SOURCE = "take the model of a package's folder, or of an address such as models:/digits@champion"
MEASURING = ("evaluate.", "reference.", "sampler.")
"""Beginnings of the parameters that say how a model is sampled and measured; the others say how it was made."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = (
        "scm sample --model scd --steps 2 --classes 3,7 -n 64 --seed 0 -o grid.png",
        "scm sample --model teacher -n 16 -o teacher.png",
        "scm sample --from models:/digits@champion --steps 1",
    )
    sample = command(commands, "sample", _sample, "draw images from a trained model into one PNG", *examples)
    sample.add_argument("--model", help="teacher or a student's method (default: publish.model of params.yaml)")
    sample.add_argument("--from", dest="source", metavar="ADDRESS", help=SOURCE)
    default = "the student's most, the teacher's sampler.teacher_steps"
    sample.add_argument("--steps", type=whole, help=f"sampling steps (default: {default})")
    sample.add_argument("--classes", type=names, help="class names or numbers, comma-separated (default: all in turn)")
    sample.add_argument("-n", "--count", type=whole, default=64, help="number of images (default: 64)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first image (default: 0)")
    sample.add_argument("--guidance", type=float, help="guidance scale (default: the one chosen for these steps)")
    sample.add_argument("-o", "--output", type=Path, default=Path("grid.png"), help="default: grid.png")
    sample.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


class Named(TypedDict):
    """What is read of a model's header before torch is imported."""

    classes: list[str]


def _sample(options: argparse.Namespace) -> int:
    """Image i has the seed options.seed + i; the classes take turns."""
    _require_place(options.output)
    if not 0 <= options.seed < 2**63 - options.count:
        raise UserError(f"--seed {options.seed}: must be between 0 and 2^63 - 1 less the number of images")
    loaded = model_of(options)

    from scm.generation.classes import class_numbers
    from scm.generation.notes import notes
    from scm.generation.trained import sampler_of, scale_of

    # What `sample` would refuse is refused here, by the names of this command's options.
    steps = options.steps or loaded.default_steps
    sampler_of(loaded.header, steps, loaded.levels)
    scale = scale_of(loaded.header, steps, options.guidance)
    classes = [loaded.classes[label] for label in class_numbers(options.classes, loaded.classes) if label >= 0]
    drawn = loaded.sample(classes or None, steps=steps, seed=options.seed, count=options.count, guidance=scale)

    # With several classes each has its column; otherwise the grid is about square.
    picture = drawn.grid(len(classes) if len(classes) > 1 else None)
    named = ", ".join(drawn.classes[: len(classes)])
    _save(picture, options.output, notes(loaded.header, loaded.commit, steps, scale, options.seed, named, len(drawn)))
    each = f"{drawn.evaluations} network evaluations each"
    print(f"{options.output}: {len(drawn)} images, {each}, {drawn.seconds:.2f} s", file=sys.stderr)
    return 0


def model_of(options: argparse.Namespace) -> "LoadedModel":
    """The model that the options source, model and device name; of a project, its `classes` are checked at once."""
    if options.source is None:
        return _of_project(options)
    from scm.product.loading import load

    return load(options.source, options.model, options.device)


def _of_project(options: argparse.Namespace) -> "LoadedModel":
    """The model in the project's models/, after a line to stderr for each way in which params.yaml differs."""
    from scm.base.weights import read_header
    from scm.generation.classes import class_numbers
    from scm.params.project import Project

    # Refuse bad options before torch is imported, which takes seconds.
    project = Project.open()
    name = options.model or project.params.publish.model
    if name not in project.params.evaluate.models:
        known = ", ".join(project.params.evaluate.models)
        raise UserError(f"--model {name}: params.yaml has {known}; use one of them")
    folder = project.root / "models" / name
    class_numbers(options.classes, read_header(folder / "model.safetensors", Named)["classes"])

    from scm.build.models import device_of
    from scm.product.loading import load

    device = device_of(project.params.runtime.model_copy(update={"device": options.device}))
    loaded = load(folder, device=device)
    for line in differences(project, name, _made(project.root, name)):
        print(printable(f"{options.parser.prog}: {line}"), file=sys.stderr)
    return loaded


def _require_place(output: Path) -> None:
    """Refuses an output that could not be written."""
    if output.suffix.lower() != ".png":
        raise UserError(f"-o {output}: pictures are written as PNG; give a name that ends in .png")
    there = next(folder for folder in output.parents if folder.exists())
    if output.is_dir() or not there.is_dir():
        what = f"{output} is a folder" if output.is_dir() else f"{there} is no folder"
        raise UserError(f"-o {output}: {what}; choose another place")


def _save(picture: "Image.Image", output: Path, chunks: "PngInfo") -> None:
    """Writes the PNG, and says so if its folder had to be made."""
    new = not output.parent.exists()
    try:
        with replacing(output) as temporary:
            picture.save(temporary, format="PNG", pnginfo=chunks)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); choose another place") from None
    if new:
        print(printable(f"scm sample: made the folder {output.parent}"), file=sys.stderr)


def _made(root: Path, model: str) -> "Run | None":
    """The run that chose the model's weights, if anything records it."""
    from scm.results.reading import read_run, run_path

    path = run_path(root, f"select_ema@{model}")
    return read_run(path) if is_there(path) else None


def differences(project: "Project", model: str, run: "Run | None") -> list[str]:
    """One line if params.yaml asks for another model than the one in models/; no line if nothing records how."""
    from scm.results.provenance import chain

    if run is None:
        return []
    then, now = run["chain"], chain(project, model)
    shared = sorted(key for key in then.keys() & now.keys() if not key.startswith(MEASURING))
    keys = [key for key in shared if then[key] != now[key]]
    if not keys:
        return []
    rest = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    which = f"{keys[0]}: {then[keys[0]]} (params.yaml: {now[keys[0]]}){rest}"
    return [f"models/{model} was made with {which}; `scm run` makes it as params.yaml says"]
