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
    from collections.abc import Callable

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from torch import Tensor

    from scm.generation.loaded import LoadedModel
    from scm.params.project import Project
    from scm.results.reading import Run

SOURCE = "take the model of a package's folder, or of an address such as models:/digits@champion"
KEYS, MAX_FRAMES = 10, 2000
"""Images that an animation goes through, unless somebody asks for others; most frames of an animation."""
MEASURING = ("evaluate.", "reference.", "sampler.")
"""Beginnings of the parameters that say how a model is sampled and measured; the others say how it was made."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = (
        "scm sample --model scd --steps 2 --classes 3,7 -n 64 --seed 0 -o grid.png",
        "scm sample --model teacher -n 16 -o teacher.png",
        "scm sample --from models:/digits@champion --steps 1",
        "scm sample --interpolate 24 -n 6 --classes 3,8 -o walk.gif",
    )
    sample = command(commands, "sample", _sample, "draw images from a trained model into one PNG", *examples)
    sample.add_argument("--model", help="teacher or a student's method (default: publish.model of params.yaml)")
    sample.add_argument("--from", dest="source", metavar="ADDRESS", help=SOURCE)
    default = "the student's most, the teacher's sampler.teacher_steps"
    sample.add_argument("--steps", type=whole, help=f"sampling steps (default: {default})")
    sample.add_argument("--classes", type=names, help="class names or numbers, comma-separated (default: all in turn)")
    sample.add_argument("-n", "--count", type=whole, help="number of images (default: 64; interpolated: 10)")
    between = "draw an animation through the same images and back to the first, so many frames from each to the next"
    sample.add_argument("--interpolate", type=whole, metavar="FRAMES", help=between)
    sample.add_argument("--seed", type=int, default=0, help="seed of the first image (default: 0)")
    sample.add_argument("--guidance", type=float, help="guidance scale (default: the one chosen for these steps)")
    sample.add_argument("-o", "--output", type=Path, help="default: grid.png; walk.gif with --interpolate")
    sample.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


class Named(TypedDict):
    """What is read of a model's header before torch is imported."""

    classes: list[str]


def _sample(options: argparse.Namespace) -> int:
    """Image i has the seed options.seed + i; the classes take turns."""
    frames = options.interpolate
    count = options.count or (KEYS if frames else 64)
    output = options.output or Path("walk.gif" if frames else "grid.png")
    require_place(output, (".gif", ".png") if frames else (".png",))
    _require_frames(frames, count)
    if not 0 <= options.seed < 2**63 - count:
        raise UserError(f"--seed {options.seed}: must be between 0 and 2^63 - 1 less the number of images")
    loaded = model_of(options)

    from scm.generation.classes import class_numbers
    from scm.generation.notes import facts, notes
    from scm.generation.trained import sampler_of, scale_of

    # What `sample` would refuse is refused here, by the names of this command's options.
    steps = options.steps or loaded.default_steps
    sampler_of(loaded.header, steps, loaded.levels)
    scale = scale_of(loaded.header, steps, options.guidance)
    chosen = class_numbers(options.classes, loaded.classes)
    classes = [loaded.classes[label] for label in chosen if label >= 0]
    named = ", ".join(classes[:count])
    if frames:
        images, evaluations = _walk(loaded, chosen, steps, scale, options.seed, count, frames)
        about = facts(loaded.header, loaded.commit, steps, scale, options.seed, named, count)
        _save_walk(images, frames, output, about)
        print(f"{output}: {len(images)} frames, {evaluations} network evaluations each", file=sys.stderr)
        return 0
    drawn = loaded.sample(classes or None, steps=steps, seed=options.seed, count=count, guidance=scale)

    # With several classes each has its column; otherwise the grid is about square.
    picture = drawn.grid(len(classes) if len(classes) > 1 else None)
    save(picture, output, notes(loaded.header, loaded.commit, steps, scale, options.seed, named, len(drawn)))
    each = f"{drawn.evaluations} network evaluations each"
    print(f"{output}: {len(drawn)} images, {each}, {drawn.seconds:.2f} s", file=sys.stderr)
    return 0


def _walk(
    loaded: "LoadedModel", labels: list[int], steps: int, scale: float, seed: int, count: int, frames: int
) -> "tuple[Tensor, int]":
    """The frames of an animation through `count` images and back to the first, and the evaluations of each frame."""
    from scm.generation.interpolation import closed_path, generate_between
    from scm.generation.loaded import BATCH
    from scm.generation.trained import evaluations_per_call, sampler_of

    sampler = sampler_of(loaded.header, steps, loaded.levels)
    path = closed_path(range(seed, seed + count), [labels[i % len(labels)] for i in range(count)], frames)
    samples = generate_between(loaded.network, sampler, path, loaded.shape, BATCH, loaded.device, scale)
    return loaded.codec.decode(samples), sampler.nfe * evaluations_per_call(loaded.header, scale)


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
    for line in differences(project, name, made(project.root, name)):
        print(printable(f"{options.parser.prog}: {line}"), file=sys.stderr)
    return loaded


def _require_frames(frames: int | None, count: int) -> None:
    """Refuses an animation of one image, or of more frames than anybody would look at."""
    if frames and (count < 2 or count * frames > MAX_FRAMES):
        remedy = f"use 2 images or more, and {MAX_FRAMES:,} frames at most"
        raise UserError(f"--interpolate {frames}: {count} images with {frames} frames each; {remedy}")


def require_place(output: Path, suffixes: tuple[str, ...] = (".png",)) -> None:
    """Refuses an output that could not be written."""
    if output.suffix.lower() not in suffixes:
        kind, suffix = ("animations", "GIF") if ".gif" in suffixes else ("pictures", "PNG")
        raise UserError(f"-o {output}: {kind} are written as {suffix}; give a name that ends in .{suffix.lower()}")
    there = next(folder for folder in output.parents if folder.exists())
    if output.is_dir() or not there.is_dir():
        what = f"{output} is a folder" if output.is_dir() else f"{there} is no folder"
        raise UserError(f"-o {output}: {what}; choose another place")


def save(picture: "Image.Image", output: Path, chunks: "PngInfo", who: str = "scm sample") -> None:
    """Writes the PNG, and says so if its folder had to be made."""
    _write(output, lambda path: picture.save(path, format="PNG", pnginfo=chunks), who)


def _save_walk(images: "Tensor", frames: int, output: Path, about: dict[str, str]) -> None:
    """Writes an animation as a GIF, or as a PNG with a row of `frames` images for each way between two samples."""
    from scm.generation.animation import write_gif
    from scm.generation.grids import grid, scale_for
    from scm.generation.notes import chunks_of

    about = {**about, "frames": str(len(images))}
    if output.suffix.lower() == ".png":
        save(grid(images, frames, scale_for(images.shape[-1])), output, chunks_of(about))
        return
    comment = "; ".join(f"{name}: {value}" for name, value in about.items())
    _write(output, lambda path: write_gif(images, path, comment), "scm sample")


def _write(output: Path, write: "Callable[[Path], None]", who: str) -> None:
    """Writes a file whole or not at all, and says so if its folder had to be made."""
    new = not output.parent.exists()
    try:
        with replacing(output) as temporary:
            write(temporary)
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written ({error.strerror}); choose another place") from None
    if new:
        print(printable(f"{who}: made the folder {output.parent}"), file=sys.stderr)


def made(root: Path, model: str) -> "Run | None":
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
