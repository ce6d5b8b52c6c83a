"""`scm sample`: pictures from a trained model of this project."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scm.base.project import find_root
from scm.build import models
from scm.data.latents.autoencoders import load_codec
from scm.errors import UserError
from scm.generation import trained
from scm.generation.generate import generate
from scm.generation.grids import save_grid, scale_for
from scm.generation.trained import NoiseLevels, class_number, evaluations_per_call, require_scale, sampler_of
from scm.params import Params, load
from scm.results.provenance import chain
from scm.results.reading import read_run, run_path

BATCH = 256
MEASURING = ("evaluate.", "reference.", "sampler.")
"""Parameters that say how a model is sampled and measured, not how it was made."""


def sample_command(args: argparse.Namespace) -> int:
    """Draws args.count images of args.model in args.steps steps into the PNG args.output.

    Image i has the seed args.seed + i and, in turn, one of args.classes (default: all).
    """
    root = find_root()
    params = load(root / "params.yaml")
    if args.model not in params.evaluate.models:
        raise UserError(f"--model {args.model}: params.yaml has {', '.join(params.evaluate.models)}; use one of them")
    if args.output.suffix.lower() != ".png":
        raise UserError(f"-o {args.output}: pictures are written as PNG; give a name that ends in .png")
    if not 0 <= args.seed < 2**63 - args.count:
        raise UserError(f"--seed {args.seed}: must be between 0 and 2^63 - 1 less the number of images")
    device = models.device_of(params.runtime.model_copy(update={"device": args.device}))
    model, header = trained.load_selected(root / "models" / args.model, device)
    for line in differences(root, params, args.model):
        print(f"scm sample: {line}", file=sys.stderr)
    codec, chosen = load_codec(root / "data/codec", device), class_numbers(args.classes, header["classes"])
    codec.check(header["codec"], f"models/{args.model}")
    labels = torch.tensor([chosen[i % len(chosen)] for i in range(args.count)])
    sampler, scale = (
        sampler_of(header, args.steps, NoiseLevels(*params.sampler.noise_levels)),
        scale_of(header, args.guidance),
    )
    seeds = range(args.seed, args.seed + args.count)
    samples, seconds = generate(model, sampler, seeds, labels, codec.header["shape"], BATCH, device, scale)
    images = codec.decode(samples)
    columns = len(chosen) if len(chosen) > 1 else max(1, round(args.count**0.5))
    try:
        save_grid(args.output, images, min(columns, args.count), scale_for(images.shape[-1]))
    except OSError as error:
        raise UserError(f"-o {args.output}: cannot be written ({error.strerror}); choose another place") from None
    nfe = sampler.nfe * evaluations_per_call(header, scale)
    print(f"{args.output}: {args.count} images, {nfe} network evaluations each, {seconds:.2f} s", file=sys.stderr)
    return 0


def differences(root: Path, params: Params, model: str) -> list[str]:
    """One line where params.yaml asks for another model than the one that is there; none where nobody knows."""
    path = run_path(root, f"select_ema@{model}")
    if not path.exists():
        return []
    then, now = read_run(path)["chain"], chain(root, params, model)
    keys = [key for key in then.keys() & now.keys() if then[key] != now[key]]
    keys = sorted(key for key in keys if not key.startswith(MEASURING))
    if not keys:
        return []
    rest = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    which = f"{keys[0]}: {then[keys[0]]} (params.yaml: {now[keys[0]]}){rest}"
    return [f"models/{model} was made with {which}; `scm run` makes it as params.yaml says"]


def class_numbers(asked: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Numbers of the classes asked for by name or number; all classes by default, [-1] where there are none."""
    if not names:
        if asked:
            raise UserError("--classes: this model was trained without classes; leave the option out")
        return [-1]
    return [class_number(text, names) for text in asked or names]


def scale_of(header: Mapping[str, Any], asked: float | None) -> float:
    """The guidance scale: the selected one, or what was asked for, if the model can be guided with it."""
    if asked is None:
        return header["guidance_scale"]
    require_scale(header, asked)
    return asked
