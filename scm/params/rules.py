"""What params.yaml may not say together: combinations that no stage could carry out, or that would mislead."""

import math
from collections.abc import Iterator

from scm.params.faults import ABSENT, Fault
from scm.params.schema import Params, StudentMethod, Teacher


def impossible(params: Params) -> Iterator[Fault]:
    """Every impossible combination, in the order of params.yaml."""
    yield from _data(params)
    yield from _network(params)
    yield from _training(params, "teacher", params.teacher)
    yield from _methods(params)
    yield from _sampling(params)


def _data(params: Params) -> Iterator[Fault]:
    data = params.data
    if data.source == "digits" and data.channels != 1:
        yield Fault("data.channels", data.channels, "the digits are grey; write 1, or data.source: folder")
    if data.source == "digits" and not data.labels:
        yield Fault("data.labels", data.labels, "the digits have labels; write true, or data.source: folder")


def _network(params: Params) -> Iterator[Fault]:
    network, resolution = params.network, params.data.resolution
    halvings = len(network.multipliers) - 1
    if resolution % 2**halvings:
        problem = f"not divisible by {2**halvings}, as {len(network.multipliers)} network.multipliers ask"
        yield Fault("data.resolution", resolution, f"{problem}; use a multiple of {2**halvings} or fewer multipliers")
        return
    if network.width % 2:
        problem = "odd, but the time embedding has as many sines as cosines"
        yield Fault("network.width", network.width, f"{problem}; use an even one")
    levels = network.resolutions(resolution)
    lowest = min(levels)
    if levels[lowest] % network.channels_per_head and lowest not in network.attention:
        channels = levels[lowest]
        problem = f"does not divide the {channels} channels of the lowest resolution, which always has attention"
        yield Fault("network.channels_per_head", network.channels_per_head, f"{problem}; use a divisor of {channels}")
    for attended in network.attention:
        heads = network.channels_per_head
        if attended not in levels:
            known = ", ".join(map(str, levels))
            yield Fault("network.attention", attended, f"not a resolution of the U-Net; choose from {known}")
        elif levels[attended] % heads:
            problem = f"does not divide the {levels[attended]} channels at resolution {attended}, which has attention"
            yield Fault("network.channels_per_head", heads, f"{problem}; use a divisor of {levels[attended]}")


def _training(params: Params, key: str, settings: Teacher | StudentMethod) -> Iterator[Fault]:
    images, batch, processes = settings.images, settings.batch, params.runtime.processes
    if images < batch:
        yield Fault(f"{key}.images", images.written, f"less than one batch of {batch}; use {batch} or more")
    elif images // batch < params.ema.snapshots:
        steps = images // batch
        problem = f"more than the {steps} steps of {key} (images / batch)"
        yield Fault("ema.snapshots", params.ema.snapshots, f"{problem}; use {steps} or fewer, or raise {key}.images")
    if batch % processes:
        remedy = f"use a divisor of {batch}, or another batch"
        yield Fault("runtime.processes", processes, f"does not divide the batch of {batch} of {key}; {remedy}")
    rate = settings.lr
    if rate.decay == "cosine" and rate.decay_from >= images:
        problem = f"the cosine decay would begin after the {images.written} images of {key}"
        yield Fault(f"{key}.lr.decay_from", rate.decay_from.written, f"{problem}; use less, or decay: constant")


def _methods(params: Params) -> Iterator[Fault]:
    student, models = params.student, params.evaluate.models
    for method in student.methods:
        if getattr(student, method) is None:
            remedy = "add it with images and dropout, or take it out of student.methods"
            yield Fault(
                f"student.{method}", ABSENT, f"student.methods names {method}, but its block is missing; {remedy}"
            )
        else:
            yield from _training(params, f"student.{method}", student.method(method))
    expected = ["teacher", *student.methods]
    if list(models) != expected:
        remedy = f"write [{', '.join(expected)}]"
        yield Fault("evaluate.models", list(models), f"must be teacher, then student.methods; {remedy}")


def _sampling(params: Params) -> Iterator[Fault]:
    sampler, select, evaluate = params.sampler, params.select, params.evaluate
    if sampler.sigma_min >= sampler.sigma_max:
        remedy = f"use less than {sampler.sigma_max}"
        yield Fault("sampler.sigma_min", sampler.sigma_min, f"must be below sampler.sigma_max; {remedy}")
    t_max = math.atan(sampler.sigma_max / params.network.sigma_d)
    for t_mid in select.t_mid:
        if t_mid >= t_max:
            problem = f"sampling starts at arctan(sampler.sigma_max / network.sigma_d) = {t_max:.4f}"
            yield Fault("select.t_mid", t_mid, f"{problem}; use less")
    if evaluate.seed < select.samples:
        problem = "evaluation would draw the samples that chose the average"
        yield Fault("evaluate.seed", evaluate.seed, f"{problem}; use select.samples ({select.samples}) or more")
    evaluations = 2 * sampler.teacher_steps - 1
    if evaluate.teacher_few_steps == evaluations:
        problem = f"the teacher's {sampler.teacher_steps} Heun steps take {evaluations} network evaluations as well"
        yield Fault("evaluate.teacher_few_steps", evaluations, f"{problem}; use another number")
