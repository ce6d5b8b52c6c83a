"""Loads a finished model and builds its sampler.

Everything follows from the header of the model's file, so `scm sample` and the packaged product draw alike. The product
has no params.yaml and no project, so this module needs only torch, numpy and safetensors.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor

from scm.base import weights
from scm.base.documents import DAMAGED_RESULT, read_json
from scm.base.forms import Positive, Rule, Whole, at_least, require
from scm.base.precision import DTYPES
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.generation.sampler import Sampler, consistency_sampler, heun_sampler, multistep_sampler
from scm.networks import Model, NetworkSettings
from scm.networks.model import GUIDE

_STEPS = re.compile(r"[1-9]\d{0,8}", re.ASCII)
Time = Annotated[float, Rule(lambda t: 0 < t < math.pi / 2, "must lie between 0 and pi / 2")]


class GuideHeader(TypedDict):
    """A second network in a teacher's file, which guides the teacher; its tensors' names begin with GUIDE."""

    network: NetworkSettings
    file: str


class ModelHeader(TypedDict):
    """The header of a model's weights: all that sampling depends on."""

    model: str
    network: NetworkSettings
    classes: list[str]
    codec: dict[str, Any]  # `scm.data.latents.codec` checks it
    sigma_d: Positive
    precision: Literal["fp32", "bf16", "fp16"]
    label_dropout: NotRequired[Annotated[float, at_least(0)]]
    t_max: NotRequired[Time]
    segments: NotRequired[Whole]
    any_steps: NotRequired[Literal[True]]
    guidance: NotRequired[tuple[float, float]]
    guide: NotRequired[GuideHeader]


class Choice(TypedDict):
    """What selection chose for one number of steps."""

    guidance_scale: Annotated[float, at_least(0)]
    t_mid: NotRequired[Time]


_CHOICES: Any = Annotated[
    dict[str, Choice],
    Rule(bool, "names no number of steps"),
    Rule(lambda choices: all(map(_STEPS.fullmatch, choices)), "has a key that is not a number of steps"),
]
"""A choice for each number of steps, as sampling.json has it."""


class NoiseLevels(NamedTuple):
    """The range and the spacing of EDM's noise levels, at which a teacher is sampled."""

    sigma_min: float
    sigma_max: float
    rho: float


def repeatable() -> None:
    """Makes torch's results repeatable bit for bit, and computes fp32 in full precision."""
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import torch's compiler: 2 seconds
    deterministic: Any = torch.utils.deterministic  # untyped
    deterministic.fill_uninitialized_memory = False  # nothing reads what it has not written
    torch.backends.cudnn.benchmark = False
    for reduced in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        setattr(torch.backends.cuda.matmul, reduced, False)  # sums of half-precision products are float32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # TF32 would round fp32


def model_of(
    state: dict[str, Tensor],
    header: dict[str, Any],
    device: torch.device | str,
    source: str = "weights",
    damaged: str = DAMAGED_RESULT,
) -> Model:
    """Builds the model of a state and its header, in eval mode; errors call the file of both `source`."""
    _require_header(header, source, damaged)
    networks = [header["network"], *([header["guide"]["network"]] if "guide" in header else [])]
    settings = [NetworkSettings.from_dict(network) for network in networks]

    def build() -> Model:
        model, *guides = (Model(each, precision=DTYPES[header["precision"]]) for each in settings)
        model.guide = guides[0] if guides else None
        return model

    try:
        if sum(each.blocks * len(each.multipliers) for each in settings) > len(state):
            raise ValueError("it has more blocks than tensors")
        model = weights.filled(state, build, sum(map(_least_numbers, settings)))
    except (ValueError, UserError) as problem:
        raise UserError(f"{source}: the weights do not fit their header ({problem}): {damaged}") from None
    return model.to(device).eval()


def _least_numbers(settings: NetworkSettings) -> int:
    """Numbers that the weights of such a network are at least."""
    widest = settings.width * max(settings.multipliers, default=0)
    return max(9 * widest**2, settings.width * max(settings.classes, settings.channels))


def guided_by(
    state: Mapping[str, Tensor], header: Mapping[str, Any], guide: Mapping[str, Tensor], entry: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and header of a teacher with a second network, which guides it.

    Args:
        guide: the second network's state.
        entry: its settings and origin, `GuideHeader`.
    """
    named = {f"{GUIDE}{name}": value for name, value in guide.items()}
    return {**state, **named}, {**header, "guide": dict(entry)}


def can_be_guided(header: Mapping[str, Any]) -> bool:
    """True if a teacher takes a guidance scale: a second network guides it, or it was trained without labels too."""
    return "guide" in header or bool(header.get("label_dropout"))


def _require_header(header: dict[str, Any], source: str, damaged: str = DAMAGED_RESULT) -> None:
    require(header, ModelHeader, f"{source}: its header", damaged)
    if header["model"] != TEACHER and "t_max" not in header:
        raise UserError(f"{source}: its header lacks t_max, which students have: {damaged}")


def evaluations_per_call(header: Mapping[str, Any], scale: float) -> int:
    """Network evaluations for one value of F: two if a teacher is guided, else one."""
    return 2 if scale != 1 and not header["network"].get("guidance") else 1


def own_steps(header: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of steps that selection has chosen a way to sample for, fewest first."""
    return tuple(sorted(header["sampling"]))


def choice_of(header: Mapping[str, Any], steps: int) -> Choice:
    """The choice for a number of steps; one without a choice takes that of the next smaller number, or the smallest."""
    own = own_steps(header)
    return header["sampling"][max((each for each in own if each <= steps), default=own[0])]


def takes_t_mid(header: Mapping[str, Any], steps: int) -> bool:
    """True if the model's own sampler of so many steps has a second time, which selection chooses."""
    return header["model"] != TEACHER and not header.keys() & {"segments", "any_steps"} and steps > 1


def sampler_of(header: Mapping[str, Any], steps: int, levels: NoiseLevels, option: str = "--steps") -> Sampler:
    """A teacher's Heun sampler, or a student's own sampler.

    A flow map takes any number of steps, of equal length in t. Any other student has its own numbers of steps alone.
    One with a t_mid takes its second step there, and spaces further steps evenly between t_mid and 0.

    Args:
        header: a header with `sampling`, the choice for each number of steps.
        levels: noise levels of a teacher's sampler.
        option: name of `steps` in error messages.
    """
    sigma_d = header["sigma_d"]
    if header["model"] == TEACHER:
        return heun_sampler(steps, *levels, sigma_d)
    if "any_steps" in header:
        return multistep_sampler(steps, header["t_max"], sigma_d)
    own = own_steps(header)
    if steps not in own:
        known, remedy = " or ".join(map(str, own)), f"write {option} {own[-1]}, or --model teacher"
        raise UserError(f"{option} {steps}: {header['model']} is sampled in {known}; {remedy}")
    if "segments" in header:
        return multistep_sampler(steps, header["t_max"], sigma_d)
    return consistency_sampler(times_of(header, steps), sigma_d)


def times_of(header: Mapping[str, Any], steps: int) -> list[float]:
    """Times of consistency sampling in so many steps, in radians from t_max down; the end, 0, is not among them."""
    t_mid = choice_of(header, steps).get("t_mid")
    further = [] if t_mid is None else [t_mid * (1 - step / (steps - 1)) for step in range(steps - 1)]
    return [header["t_max"], *further]


def require_scale(header: Mapping[str, Any], scale: float, option: str = "--guidance") -> None:
    """Refuses a guidance scale that the model was not trained for; error messages call it `option`."""
    name, trained = header["model"], header.get("guidance")
    if not math.isfinite(scale) or scale < 0:
        raise UserError(f"{option} {scale:g}: must be a number from 0 on, such as 1.5")
    if trained and not trained[0] <= scale <= trained[1]:
        low, high = trained
        raise UserError(f"{option} {scale:g}: {name} was trained for {low:g} to {high:g}; choose from there")
    if scale != 1 and not trained and not can_be_guided(header):
        raise UserError(f"{option} {scale:g}: {name} was not trained for guidance; leave the option out")


SAMPLING = "sampling.json"
"""The selected way to sample a model. As it is not in the weights' file, another choice retrains no student."""


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Loads a model in eval mode and the header of its file."""
    state, header = weights.load(path)
    return model_of(state, header, device, str(path)), header


def load_selected(folder: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Loads the model in a folder models/NAME and its `selected_header`."""
    model, _ = load_model(folder / "model.safetensors", device)
    return model, selected_header(folder)


def scale_of(header: Mapping[str, Any], steps: int, asked: float | None) -> float:
    """The guidance scale given on the command line, if the model allows it; by default the one chosen for `steps`."""
    if asked is not None:
        require_scale(header, asked)
    return choice_of(header, steps)["guidance_scale"] if asked is None else asked


def selected_header(folder: Path) -> dict[str, Any]:
    """The header of the model in models/NAME, with `sampling`: what selection chose for each number of steps."""
    file = folder / "model.safetensors"
    header = weights.read_header(file)
    _require_header(header, str(file))
    source = folder / SAMPLING
    return with_choices(header, read_json(source, dict[str, Any]), str(source))


def _older(header: Mapping[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """A student's one choice, as files of earlier champions have it, for each of its numbers of steps."""
    if "segments" in header or "t_mid" not in choice:
        return {str(header.get("segments", 1)): choice}
    return {"1": {"guidance_scale": choice["guidance_scale"]}, "2": choice}


def with_choices(
    header: dict[str, Any], choices: dict[str, Any], source: str, damaged: str = DAMAGED_RESULT
) -> dict[str, Any]:
    """Adds `sampling` to a model's header; errors call the origin of the choices `source`.

    Raises:
        UserError: the choices are not of the form {"1": {"guidance_scale": 1.5}, "2": {"guidance_scale": 1.3, "t_mid":
            1.1}}, or the model is not sampled in these numbers of steps.
    """
    if "guidance_scale" in choices and header["model"] != TEACHER:
        choices = _older(header, choices)
    require(choices, _CHOICES, source, damaged)
    sampling = {int(steps): choices[steps] for steps in sorted(choices, key=int)}
    if header["model"] != TEACHER and "any_steps" not in header:
        needed = header.get("segments", 1)
        if needed not in sampling or ("segments" in header and len(sampling) > 1):
            raise UserError(f"{source} has {', '.join(choices)}; {header['model']} is sampled in {needed}: {damaged}")
        if lacking := [each for each in sampling if takes_t_mid(header, each) and "t_mid" not in sampling[each]]:
            raise UserError(f"{source}: {lacking[0]} lacks t_mid: {damaged}")
    return {**header, "sampling": sampling}
