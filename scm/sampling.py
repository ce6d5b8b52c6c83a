"""`scm sample`: pictures from a trained model of this project."""

import argparse
import sys
from collections.abc import Sequence

import torch

from scm import build
from scm.data.codec import Codec
from scm.errors import UserError
from scm.evaluation.generate import Sampler, generate
from scm.evaluation.grids import save_grid, scale_for
from scm.params import Params, load
from scm.project import find_root

BATCH = 256


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
    device = build.device_of(params.runtime.model_copy(update={"device": args.device}))
    model, header = build.load_model(root / "models" / args.model / "model.safetensors", device)
    codec, chosen = Codec(header["codec"]), class_numbers(args.classes, header["classes"])
    labels = torch.tensor([chosen[i % len(chosen)] for i in range(args.count)])
    sampler = sampler_of(params, header["sigma_d"], header.get("t_mid"), args.steps)
    seeds = range(args.seed, args.seed + args.count)
    samples, seconds = generate(model, sampler, seeds, labels, codec.header["shape"], BATCH, device)
    columns = len(chosen) if len(chosen) > 1 else max(1, round(args.count**0.5))
    try:
        save_grid(args.output, codec.decode(samples), min(columns, args.count), scale_for(codec.header["shape"][1]))
    except OSError as error:
        raise UserError(f"-o {args.output}: cannot be written ({error.strerror}); choose another place") from None
    print(
        f"{args.output}: {args.count} images, {sampler.nfe} network evaluations each, {seconds:.2f} s", file=sys.stderr
    )
    return 0


def class_numbers(asked: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Numbers of the classes asked for by name or number; all classes by default, [-1] where there are none."""
    if not names:
        if asked:
            raise UserError("--classes: this model was trained without classes; leave the option out")
        return [-1]
    numbers = []
    for text in asked or names:
        if text in names:
            numbers.append(names.index(text))
        elif text.isdecimal() and int(text) < len(names):
            numbers.append(int(text))
        else:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise UserError(
                f"--classes {text}: no such class; this model has {shown} (or numbers 0 to {len(names) - 1})"
            )
    return numbers


def sampler_of(params: Params, sigma_d: float, t_mid: float | None, steps: int) -> Sampler:
    """The teacher's Heun sampler, or a student's consistency sampler.

    A student's second step is at the selected t_mid; further ones are spaced evenly between it and 0.
    """
    settings = params.sampler
    if t_mid is None:
        return build.heun_sampler(steps, settings.sigma_min, settings.sigma_max, settings.rho, sigma_d)
    further = [t_mid * (1 - step / (steps - 1)) for step in range(steps - 1)]
    return build.consistency_sampler([build.t_max_of(settings.sigma_max, sigma_d), *further], sigma_d)
