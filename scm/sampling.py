"""`scm sample`: pictures from a trained model of this project."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scm import build
from scm.data.autoencoders import load_codec
from scm.errors import UserError
from scm.evaluation.generate import Sampler, generate
from scm.evaluation.grids import save_grid, scale_for
from scm.params import Params, load
from scm.params.schema import TEACHER
from scm.project import find_root
from scm.results import read_run, run_path
from scm.stage import chain

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
    device = build.device_of(params.runtime.model_copy(update={"device": args.device}))
    model, header = build.load_selected(root / "models" / args.model, device)
    for line in differences(root, params, args.model):
        print(f"scm sample: {line}", file=sys.stderr)
    codec, chosen = load_codec(root / "data/codec", device), class_numbers(args.classes, header["classes"])
    codec.check(header["codec"], f"models/{args.model}")
    labels = torch.tensor([chosen[i % len(chosen)] for i in range(args.count)])
    sampler, scale = sampler_of(params, header, args.steps), scale_of(header, args.guidance)
    seeds = range(args.seed, args.seed + args.count)
    samples, seconds = generate(model, sampler, seeds, labels, codec.header["shape"], BATCH, device, scale)
    images = codec.decode(samples)
    columns = len(chosen) if len(chosen) > 1 else max(1, round(args.count**0.5))
    try:
        save_grid(args.output, images, min(columns, args.count), scale_for(images.shape[-1]))
    except OSError as error:
        raise UserError(f"-o {args.output}: cannot be written ({error.strerror}); choose another place") from None
    nfe = sampler.nfe * build.evaluations_of(header, scale)
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


def scale_of(header: Mapping[str, Any], asked: float | None) -> float:
    """The guidance scale: the selected one, or what was asked for, if the model can be guided with it."""
    if asked is None:
        return header["guidance_scale"]
    scale, trained = asked, header.get("guidance")
    if not math.isfinite(scale) or scale < 0:
        raise UserError(f"--guidance {scale:g}: must be a number from 0 on, such as 1.5")
    if trained and not trained[0] <= scale <= trained[1]:
        low, high = trained
        raise UserError(
            f"--guidance {scale:g}: {header['model']} was trained for {low:g} to {high:g}; choose from there"
        )
    if scale != 1 and not trained and not header.get("label_dropout"):
        raise UserError(f"--guidance {scale:g}: {header['model']} was not trained for guidance; leave the option out")
    return scale


def sampler_of(params: Params, header: Mapping[str, Any], steps: int) -> Sampler:
    """The teacher's Heun sampler, or a student's own.

    A student's second step is at the selected t_mid; further ones are spaced evenly between it and 0. One that knows
    a single time, or segments, is sampled in as many steps as it was made for.
    """
    settings, sigma_d, t_mid = params.sampler, header["sigma_d"], header.get("t_mid")
    if header["model"] == TEACHER:
        return build.heun_sampler(steps, settings.sigma_min, settings.sigma_max, settings.rho, sigma_d)
    if t_mid is None:
        (sampler,) = build.samplers(params, header, 1.0, None)
        if steps != sampler.nfe:
            raise UserError(
                f"--steps {steps}: {header['model']} is sampled in {sampler.nfe}; write --steps {sampler.nfe}"
            )
        return sampler
    further = [t_mid * (1 - step / (steps - 1)) for step in range(steps - 1)]
    return build.consistency_sampler([header["t_max"], *further], sigma_d)
