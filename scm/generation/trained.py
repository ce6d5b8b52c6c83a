"""How a finished model is drawn with: its network, its sampler, and what may be asked of it.

All of it follows from the header of the model's file, so that a model is drawn alike by `scm sample` and by the
packaged product, which has no params.yaml and no project around it: torch, numpy and safetensors are enough here.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scm.base import weights
from scm.base.files import read_json
from scm.base.precision import DTYPES
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.generation.sampler import Sampler, consistency_sampler, heun_sampler, multistep_sampler
from scm.networks import Model, NetworkSettings


class NoiseLevels(NamedTuple):
    """EDM's noise levels, which a teacher is sampled on."""

    sigma_min: float
    sigma_max: float
    rho: float


def repeatable() -> None:
    """Has torch compute the same bits each time, and fp32 in full."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32


def model_of(state: dict[str, Tensor], header: dict[str, Any], device: torch.device | str) -> Model:
    """The model that a state and its header describe, in eval mode."""
    model = Model(NetworkSettings.from_dict(header["network"]), precision=DTYPES[header["precision"]])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"weights do not fit their header ({problem}): delete them and run `dvc repro`") from None
    return model.to(device).eval()


def evaluations_per_call(header: Mapping[str, Any], scale: float) -> int:
    """Of the network for one of F: two where it is guided from outside, as a teacher is."""
    return 2 if scale != 1 and not header["network"].get("guidance") else 1


def own_steps(header: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers of steps that a student was made for: one and, with a t_mid, two; or one for each segment."""
    if "segments" in header:
        return (header["segments"],)
    return (1,) if header.get("t_mid") is None else (1, 2)


def sampler_of(header: Mapping[str, Any], steps: int, levels: NoiseLevels, option: str = "--steps") -> Sampler:
    """The teacher's Heun sampler, or a student's own.

    A student's second step is at the selected t_mid; further ones are spaced evenly between it and 0. One that knows
    a single time, or segments, is sampled in as many steps as it was made for.

    Args:
        levels: what a teacher is sampled on.
        option: what the caller calls `steps`, for the message.
    """
    sigma_d, t_mid = header["sigma_d"], header.get("t_mid")
    if header["model"] == TEACHER:
        return heun_sampler(steps, *levels, sigma_d)
    if t_mid is not None:
        further = [t_mid * (1 - step / (steps - 1)) for step in range(steps - 1)]
        return consistency_sampler([header["t_max"], *further], sigma_d)
    (only,) = own_steps(header)
    if steps != only:
        raise UserError(f"{option} {steps}: {header['model']} is sampled in {only}; write {option} {only}")
    if "segments" in header:
        return multistep_sampler(only, header["t_max"], sigma_d)
    return consistency_sampler([header["t_max"]], sigma_d)


def require_scale(header: Mapping[str, Any], scale: float, option: str = "--guidance") -> None:
    """Refuses a guidance scale that the model was not trained for.

    Args:
        option: what the caller calls it, for the message.
    """
    name, trained = header["model"], header.get("guidance")
    if not math.isfinite(scale) or scale < 0:
        raise UserError(f"{option} {scale:g}: must be a number from 0 on, such as 1.5")
    if trained and not trained[0] <= scale <= trained[1]:
        low, high = trained
        raise UserError(f"{option} {scale:g}: {name} was trained for {low:g} to {high:g}; choose from there")
    if scale != 1 and not trained and not header.get("label_dropout"):
        raise UserError(f"{option} {scale:g}: {name} was not trained for guidance; leave the option out")


def class_number(text: str, names: Sequence[str], option: str = "--classes") -> int:
    """Number of the class that `text` names, or is the number of."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    raise UserError(f"{option} {text}: no such class; this model has {shown} (or numbers 0 to {len(names) - 1})")


SAMPLING = "sampling.json"
"""How a selected model is sampled: beside its weights, so that another choice retrains nobody who starts from them."""


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the header of its file."""
    state, header = weights.load(path)
    return model_of(state, header, device), header


def load_selected(folder: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The model in models/<name> and its `selected_header`."""
    model, _ = load_model(folder / "model.safetensors", device)
    return model, selected_header(folder)


def class_numbers(asked: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Numbers of the classes asked for by name or number (default: all); [-1] for a model without classes."""
    if not names:
        if asked:
            raise UserError("--classes: this model was trained without classes; leave the option out")
        return [-1]
    return [class_number(text, names) for text in asked or names]


def scale_of(header: Mapping[str, Any], asked: float | None) -> float:
    """The guidance scale asked for, if the model can be guided with it; by default the selected one."""
    if asked is None:
        return header["guidance_scale"]
    require_scale(header, asked)
    return asked


def selected_header(folder: Path) -> dict[str, Any]:
    """The header of the model in models/<name>, with how selection chose to sample it: `guidance_scale`, t_mid."""
    return {**weights.read_header(folder / "model.safetensors"), **read_json(folder / SAMPLING)}
