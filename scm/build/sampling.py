"""Builds what measures a model: its samplers, and the candidates of selection."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scm import methods
from scm.base.distributed import Ranks
from scm.base.project import TEACHER
from scm.data.latents.codec import Codec
from scm.errors import UserError
from scm.evaluation.candidates import Way
from scm.evaluation.reference import Reference
from scm.evaluation.selection import Average, Measured, Selection
from scm.generation.sampler import Sampler, ddim_sampler, t_max_of
from scm.generation.trained import (
    Choice,
    NoiseLevels,
    can_be_guided,
    choice_of,
    evaluations_per_call,
    own_steps,
    sampler_of,
    takes_t_mid,
)
from scm.params import Params
from scm.samplers import edm_sigmas
from scm.trigflow import time_of_sigma


def measured_samplers(params: Params, header: Mapping[str, Any]) -> list[tuple[Sampler, Choice]]:
    """The samplers that measure a model, each with what was chosen for it, in order of network evaluations.

    A student is sampled in each of its own numbers of steps. A teacher's full sampler has a few-step one beside it,
    which takes the same guidance scale.

    Args:
        header: header of the model's file, with `sampling`.
    """
    found = [(sampler_in(params, header, steps), choice_of(header, steps)) for steps in own_steps(header)]
    if header["model"] != TEACHER:
        return found
    ((_, choice),) = found
    few = ddim_sampler(few_step_times(params, header["sigma_d"]), header["sigma_d"])
    return [(_counted(few, header, choice), choice), *found]


def steps_of(params: Params, header: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of steps for which a model's sampling is chosen, fewest first; a teacher's are Heun steps."""
    if header["model"] == TEACHER:
        return (params.sampler.teacher_steps,)
    if "segments" in header:
        return (header["segments"],)
    if "any_steps" in header:
        return tuple(sorted(params.evaluate.flow_map_steps))
    return (1, 2) if methods.find(header["model"]).two_steps else (1,)


def sampler_in(params: Params, header: Mapping[str, Any], steps: int) -> Sampler:
    """The sampler of `steps` steps as `sampling` in the header has it; guidance doubles a teacher's evaluations."""
    sampler = sampler_of(header, steps, NoiseLevels(*params.sampler.noise_levels))
    return _counted(sampler, header, choice_of(header, steps))


def _counted(sampler: Sampler, header: Mapping[str, Any], choice: Choice) -> Sampler:
    return replace(sampler, nfe=sampler.nfe * evaluations_per_call(header, choice["guidance_scale"]))


def selection(
    params: Params,
    reference: Reference,
    codec: Codec,
    snapshots: Path,
    ranks: Ranks,
    say: Callable[[str], None],
    measured: Measured,
    guide: Callable[[Average], Average] | None = None,
) -> Selection:
    """The search for a model's best average, as the section `select` describes it.

    Args:
        guide: gives an average its guide; None = there is none.
    """
    select, place = params.select, (reference, codec, snapshots, ranks, say, measured)
    how = partial(ways, params), partial(sampler_in, params)
    return Selection(
        *place, *how, select.samples, select.coarse, select.refine, select.progress, params.evaluate.batch, guide
    )


def ways(params: Params, header: Mapping[str, Any]) -> list[Way]:
    """The candidate ways to sample a model: for each number of steps its guidance scales and, in two steps, its t_mid.

    The fewest steps come first.
    """
    scales = scales_of(params, header)
    return [
        Way(steps, scale, t_mid)
        for steps in steps_of(params, header)
        for scale in scales
        for t_mid in (params.select.t_mid if takes_t_mid(header, steps) else (None,))
    ]


def scales_of(params: Params, header: Mapping[str, Any]) -> tuple[float, ...]:
    """The candidates for the guidance scale; only 1 for a student that does not take the scale."""
    scales = params.select.guidance
    if header["model"] != TEACHER:
        return scales.student if header["network"].get("guidance") else (1.0,)
    for scale in scales.teacher:
        if scale != 1 and not can_be_guided(header):
            problem = "this teacher was never trained without labels and cannot be guided"
            raise UserError(f"params.yaml: select.guidance.teacher = {scale}: {problem}; write [1.0]")
    return scales.teacher


def is_guided(header: Mapping[str, Any], scale: float) -> bool:
    """True if the guidance scale affects the model's samples."""
    return bool(header["network"].get("guidance")) or scale != 1


def few_step_times(params: Params, sigma_d: float) -> list[float]:
    """Times of the teacher's few-step DDIM sampler, in radians; the last is 0."""
    settings, steps = params.sampler, params.evaluate.teacher_few_steps
    if params.evaluate.teacher_few_spacing == "edm":
        sigmas = edm_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho)
        return [time_of_sigma(sigma, sigma_d) for sigma in sigmas]
    t_max = t_max_of(settings.sigma_max, sigma_d)
    return [t_max * (1 - step / steps) for step in range(steps + 1)]
