"""`scm edit`: edits a picture with a trained student, without any training for it."""

import argparse
import math
import sys
from itertools import pairwise
from pathlib import Path

from scm.commands.arguments import command, names, whole
from scm.commands.sample import SOURCE, model_of, require_place, save
from scm.errors import UserError

MAX_PIXELS = 2**26
"""Most pixels of a picture that is read; a package has no data.max_pixels."""
COUNT = 4
"""Results of each class, unless somebody asks for more."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = (
        "scm edit three.png --task inpaint --mask mask.png --classes 3",
        "scm edit small.png --task upscale --factor 2 --classes 3,8 --seed 5 -o edited.png",
        "scm edit sketch.png --task stroke --classes 7 --times 1.2,0.8,0.4",
    )
    edit = command(commands, "edit", _edit, "edit a picture with a trained student", *examples)
    edit.add_argument("image", type=Path, metavar="IMAGE", help="a picture, cropped and resized to the model's size")
    tasks = "inpaint = fill what the mask shows, colour = colour a grey picture, upscale, stroke = follow a sketch"
    edit.add_argument("--task", required=True, choices=["inpaint", "colour", "upscale", "stroke"], help=tasks)
    edit.add_argument("--mask", type=Path, help="for inpaint: a picture of its size, white where pixels are missing")
    edit.add_argument("--factor", type=whole, default=2, help="for upscale: pixels on a side for each one given (2)")
    edit.add_argument("--classes", type=names, help="class names or numbers, comma-separated; each has a row")
    edit.add_argument("--model", help="a student's method (default: publish.model of params.yaml)")
    edit.add_argument("--from", dest="source", metavar="ADDRESS", help=SOURCE)
    times = "times in radians, descending, comma-separated (default: 10, evenly from the model's t_max down)"
    edit.add_argument("--times", type=_times, help=times)
    edit.add_argument("-n", "--count", type=whole, default=COUNT, help=f"results for each class (default: {COUNT})")
    edit.add_argument("--seed", type=int, default=0, help="seed of the first result (default: 0)")
    edit.add_argument("-o", "--output", type=Path, default=Path("edited.png"), help="default: edited.png")
    edit.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


def _edit(options: argparse.Namespace) -> int:
    """Result i of each class has the seed options.seed + i; the given picture begins each row."""
    # Refuse bad options before torch is imported, which takes seconds.
    count = options.count
    require_place(options.output)
    if not 0 <= options.seed < 2**63 - count:
        raise UserError(f"--seed {options.seed}: must be between 0 and 2^63 - 1 less the number of results")
    image = _content("IMAGE", options.image)
    mask = _content("--mask", options.mask) if options.mask else None
    loaded = model_of(options)

    import torch

    from scm.generation import editing
    from scm.generation.classes import class_numbers
    from scm.generation.generate import generate
    from scm.generation.grids import grid, scale_for
    from scm.generation.loaded import BATCH
    from scm.generation.notes import chunks_of, facts
    from scm.generation.trained import scale_of

    # Refuse what the model and its codec cannot do.
    header, codec, classes = loaded.header, loaded.codec, loaded.classes
    if classes and not options.classes:
        raise UserError(f"--classes: missing; say what the picture shows, such as --classes {classes[0]}")
    chosen = class_numbers(options.classes, classes)
    editing.require_editor(header, f"--model {loaded.name}")
    editing.require_task(options.task, codec.header, options.factor, mask is not None)
    times = options.times or editing.times_of(header, options.task)
    if times[0] > header["t_max"]:
        raise UserError(f"--times {times[0]:g}: {loaded.name} begins at {header['t_max']:.5f}; use times up to there")

    # Read the picture, and draw each result with its own seed.
    picture = editing.read_picture(options.task, codec, image, mask, MAX_PIXELS, options.factor)
    sampler, scale = editing.edit_sampler(picture, codec, times, loaded.device), scale_of(header, len(times), None)
    labels = torch.tensor([label for label in chosen for _ in range(count)])
    seeds = [options.seed + i for _ in chosen for i in range(count)]
    samples, seconds = generate(loaded.network, sampler, seeds, labels, loaded.shape, BATCH, loaded.device, scale)
    images = picture.finished(codec.decode(samples))

    # Each class has a row, which begins with the given picture.
    rows = [row for part in images.split(count) for row in (picture.shown(), part)]
    drawn = ", ".join(classes[label] for label in chosen if label >= 0)
    about = facts(header, loaded.commit, len(times), scale, options.seed, drawn, len(images))
    about |= {"task": options.task, "times": ", ".join(f"{t:.4g}" for t in times)}
    about |= {"factor": str(options.factor)} if options.task == editing.UPSCALE else {}
    about.pop("t_mid", None)  # it has times of its own
    save(grid(torch.cat(rows), count + 1, scale_for(images.shape[-1])), options.output, chunks_of(about), "scm edit")
    drawn = f"{len(images)} results, {len(times)} network evaluations each, {seconds:.2f} s"
    print(f"{options.output}: {drawn}", file=sys.stderr)
    return 0


def _times(text: str) -> list[float]:
    """Times between 0 and pi / 2, descending."""
    times = [float(each) for each in text.split(",")]
    if not all(0 < t < math.pi / 2 for t in times) or any(t <= later for t, later in pairwise(times)):
        rule = "must be numbers between 0 and pi / 2, descending, such as 1.5,1.0,0.5"
        raise argparse.ArgumentTypeError(f"{rule}, not {text}")
    return times


def _content(option: str, path: Path) -> tuple[str, bytes]:
    """What messages call a file, and its content."""
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be read ({error.strerror}); give the file of a picture") from None
