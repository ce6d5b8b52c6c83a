"""`scm sample`: draws images from a trained model of this project."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scm.commands.arguments import command, names, whole
from scm.errors import UserError, printable

if TYPE_CHECKING:
    from scm.params.project import Project

BATCH = 256
MEASURING = ("evaluate.", "reference.", "sampler.")
"""Beginnings of the parameters that say how a model is sampled and measured; the others say how it was made."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = (
        "scm sample --model scd --steps 2 --classes 3,7 -n 64 --seed 0 -o grid.png",
        "scm sample --model teacher --steps 18 -n 16 -o teacher.png",
    )
    sample = command(commands, "sample", _sample, "draw images from a trained model into one PNG", *examples)
    sample.add_argument("--model", default="scd", help="teacher or a student's method (default: scd)")
    sample.add_argument("--steps", type=whole, default=2, help="sampling steps (default: 2)")
    sample.add_argument("--classes", type=names, help="class names or numbers, comma-separated (default: all in turn)")
    sample.add_argument("-n", "--count", type=whole, default=64, help="number of images (default: 64)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first image (default: 0)")
    sample.add_argument("--guidance", type=float, help="guidance scale (default: the one chosen for these steps)")
    sample.add_argument("-o", "--output", type=Path, default=Path("grid.png"), help="default: grid.png")
    sample.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


def _sample(options: argparse.Namespace) -> int:
    """Image i has the seed options.seed + i; the classes take turns."""
    import torch

    from scm.build.models import device_of
    from scm.data.latents.autoencoders import load_codec
    from scm.generation import trained
    from scm.generation.generate import generate
    from scm.generation.grids import save_grid, scale_for
    from scm.params.project import Project

    # Refuse bad options before a model is loaded.
    project = Project.open()
    root, params, count = project.root, project.params, options.count
    if options.model not in params.evaluate.models:
        known = ", ".join(params.evaluate.models)
        raise UserError(f"--model {options.model}: params.yaml has {known}; use one of them")
    if options.output.suffix.lower() != ".png":
        raise UserError(f"-o {options.output}: pictures are written as PNG; give a name that ends in .png")
    if not 0 <= options.seed < 2**63 - count:
        raise UserError(f"--seed {options.seed}: must be between 0 and 2^63 - 1 less the number of images")

    # Load the model, choose how to sample it, and load the codec that turns its samples into pixels.
    device = device_of(params.runtime.model_copy(update={"device": options.device}))
    model, header = trained.load_selected(root / "models" / options.model, device)
    for line in differences(project, options.model):
        print(printable(f"scm sample: {line}"), file=sys.stderr)
    codec = load_codec(root / "data/codec", device)
    codec.check(header["codec"], f"models/{options.model}")
    chosen = trained.class_numbers(options.classes, header["classes"])
    sampler = trained.sampler_of(header, options.steps, trained.NoiseLevels(*params.sampler.noise_levels))
    scale = trained.scale_of(header, options.steps, options.guidance)

    labels = torch.tensor([chosen[i % len(chosen)] for i in range(count)])
    seeds, shape = range(options.seed, options.seed + count), codec.header["shape"]
    samples, seconds = generate(model, sampler, seeds, labels, shape, BATCH, device, scale)
    images = codec.decode(samples)

    # With several classes each has its column; otherwise the grid is about square.
    columns = len(chosen) if len(chosen) > 1 else max(1, round(count**0.5))
    try:
        save_grid(options.output, images, min(columns, count), scale_for(images.shape[-1]))
    except OSError as error:
        raise UserError(f"-o {options.output}: cannot be written ({error.strerror}); choose another place") from None
    nfe = sampler.nfe * trained.evaluations_per_call(header, scale)
    print(f"{options.output}: {count} images, {nfe} network evaluations each, {seconds:.2f} s", file=sys.stderr)
    return 0


def differences(project: "Project", model: str) -> list[str]:
    """One line if params.yaml asks for another model than the one in models/; no line if nothing records how."""
    from scm.base.documents import is_there
    from scm.results.provenance import chain
    from scm.results.reading import read_run, run_path

    path = run_path(project.root, f"select_ema@{model}")
    if not is_there(path):
        return []
    then, now = read_run(path)["chain"], chain(project, model)
    shared = sorted(key for key in then.keys() & now.keys() if not key.startswith(MEASURING))
    keys = [key for key in shared if then[key] != now[key]]
    if not keys:
        return []
    rest = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    which = f"{keys[0]}: {then[keys[0]]} (params.yaml: {now[keys[0]]}){rest}"
    return [f"models/{model} was made with {which}; `scm run` makes it as params.yaml says"]
