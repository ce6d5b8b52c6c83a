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
from scm.evaluation.reference import Reference
from scm.evaluation.selection import Measured, Selection, Way
from scm.generation.sampler import Sampler, consistency_sampler, ddim_sampler, heun_sampler, multistep_sampler, t_max_of
from scm.generation.trained import evaluations_per_call
from scm.params import Params
from scm.samplers import edm_sigmas
from scm.trigflow import time_of_sigma


def samplers(params: Params, header: Mapping[str, Any], scale: float, t_mid: float | None) -> list[Sampler]:
    """The samplers that measure a model, in order of network evaluations.

    A teacher has a few-step sampler and a full one. A student with segments jumps once in each, and a flow map in the
    numbers of steps of params.yaml. Any other student is sampled in one step and, if it has a `t_mid`, in two.

    Args:
        header: header of the model's file or of a snapshot.
        scale: guidance scale; guidance doubles a teacher's evaluations.
    """
    settings, sigma_d = params.sampler, header["sigma_d"]
    if header["model"] == TEACHER:
        few = ddim_sampler(few_step_times(params, sigma_d), sigma_d)
        full = heun_sampler(settings.teacher_steps, settings.sigma_min, settings.sigma_max, settings.rho, sigma_d)
        evaluations = evaluations_per_call(header, scale)
        return [replace(each, nfe=each.nfe * evaluations) for each in (few, full)]
    t_max = header["t_max"]
    if "segments" in header:
        return [multistep_sampler(header["segments"], t_max, sigma_d)]
    if "any_steps" in header:
        return [multistep_sampler(steps, t_max, sigma_d) for steps in sorted(params.evaluate.flow_map_steps)]
    one_step = consistency_sampler([t_max], sigma_d)
    return [one_step] if t_mid is None else [one_step, consistency_sampler([t_max, t_mid], sigma_d)]


def selection(
    params: Params,
    reference: Reference,
    codec: Codec,
    snapshots: Path,
    ranks: Ranks,
    say: Callable[[str], None],
    measured: Measured,
) -> Selection:
    """The search for a model's best average, as the section `select` describes it."""
    select, place = params.select, (reference, codec, snapshots, ranks, say, measured)
    how = partial(ways, params), partial(samplers, params)
    return Selection(
        *place, *how, select.samples, select.coarse, select.refine, select.progress, batch=params.evaluate.batch
    )


def ways(params: Params, header: Mapping[str, Any]) -> list[Way]:
    """The pairs of a candidate guidance scale and a candidate t_mid."""
    times = two_step_times(params, header) or (None,)
    return [(scale, t_mid) for scale in scales_of(params, header) for t_mid in times]


def two_step_times(params: Params, header: Mapping[str, Any]) -> tuple[float, ...]:
    """The candidates for t_mid, if the model is sampled in two steps."""
    trained = header["model"]
    return params.select.t_mid if trained != TEACHER and methods.find(trained).two_steps else ()


def scales_of(params: Params, header: Mapping[str, Any]) -> tuple[float, ...]:
    """The candidates for the guidance scale; only 1 for a student that does not take the scale."""
    scales = params.select.guidance
    if header["model"] != TEACHER:
        return scales.student if header["network"].get("guidance") else (1.0,)
    for scale in scales.teacher:
        if scale != 1 and not header.get("label_dropout"):
            problem = "this teacher was never trained without labels and cannot be guided"
            raise UserError(f"params.yaml: select.guidance.teacher = {scale}: {problem}; write [1.0]")
    return scales.teacher


def is_guided(header: Mapping[str, Any]) -> bool:
    """True if the guidance scale affects the model's samples."""
    return bool(header["network"].get("guidance")) or header["guidance_scale"] != 1


def few_step_times(params: Params, sigma_d: float) -> list[float]:
    """Times of the teacher's few-step DDIM sampler, in radians; the last is 0."""
    settings, steps = params.sampler, params.evaluate.teacher_few_steps
    if params.evaluate.teacher_few_spacing == "edm":
        sigmas = edm_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho)
        return [time_of_sigma(sigma, sigma_d) for sigma in sigmas]
    t_max = t_max_of(settings.sigma_max, sigma_d)
    return [t_max * (1 - step / steps) for step in range(steps + 1)]
