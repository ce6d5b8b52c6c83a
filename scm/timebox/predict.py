"""Predicts the seconds of each stage of `scm run` from the parameters, the images and what was measured."""

import math
from dataclasses import dataclass
from typing import Any

from scm import methods
from scm.base.project import TEACHER
from scm.build.sampling import ways
from scm.evaluation.by_time import samples_of, times_of, way_back
from scm.evaluation.candidates import Way
from scm.evaluation.held_out import SIDE, SIDES
from scm.evaluation.jackknife import BLOCKS
from scm.evaluation.measuring import MOST_COMPARED
from scm.evaluation.precision_recall import MOST_IMAGES
from scm.evaluation.reference import DRAWS
from scm.generation.sampler import t_max_of
from scm.generation.trained import evaluations_per_call
from scm.params import Params
from scm.report.preview import IMAGES, TEACHER_STEPS
from scm.timebox.speeds import Machine, Speeds

AROUND = 3.0
"""Seconds of a stage beside its work (dvc, imports, figures sent to MLflow), in starts of a process."""
OPENING = 1.5
"""Seconds of `scm run` before its first stage, likewise."""
TRAINING = 1.1
"""A training's seconds, as a multiple of its steps: lines of metrics, the page that shows them, checkpoints."""
DISTANCE = 0.01
"""Seconds of one Frechet distance."""
ENCODED = 2.0
"""Seconds of stage encode for an image, as a multiple of reading it from its shard."""


@dataclass(frozen=True)
class Images:
    """The prepared images.

    Attributes:
        training: how many train.
        held_out: how many are held out.
        classes: their classes; 0 = none.
        read: seconds in which one thread reads, crops and writes an image; None = unknown.
        decode: seconds in which it reads it again.
    """

    training: int
    held_out: int
    classes: int
    read: float | None = None
    decode: float = 0.0


Seconds = dict[str, float | None]
"""Seconds by the names that the stages have in dvc.yaml; None = unknown."""


def predicted(params: Params, images: Images | None, machine: Machine, speeds: Speeds | None) -> Seconds:
    """Predicts every stage.

    Args:
        images: None = unknown; then only the trainings and the report are predicted.
        speeds: None = unknown.
    """
    start = machine.start * AROUND
    found: Seconds = {"prepare": None, "encode": None, "reference": None}
    plain = params.codec.name == "identity"
    if images is not None:
        every = images.training + images.held_out
        if images.read is not None:
            found["prepare"] = every * images.read / machine.threads
            found["encode"] = images.training * images.decode * ENCODED if plain else None
        found["reference"] = _reference(params, images, machine)
    for model in params.evaluate.models:
        found["train_teacher" if model == TEACHER else f"train_student@{model}"] = _training(params, model, speeds)
        found[f"select_ema@{model}"] = found[f"evaluate@{model}"] = None
        if plain and speeds is not None and images is not None and machine.features is not None:
            found[f"select_ema@{model}"] = _selection(params, model, machine, speeds)
            found[f"evaluate@{model}"] = _evaluation(params, model, images, machine, speeds)
    found["report"] = 0.0
    return {name: None if seconds is None else start + seconds for name, seconds in found.items()}


def total(found: Seconds, machine: Machine) -> float:
    """Seconds of a run of all these stages, as far as they are known."""
    return machine.start * OPENING + sum(seconds or 0.0 for seconds in found.values())


def _reference(params: Params, images: Images, machine: Machine) -> float | None:
    if machine.learn is None or machine.features is None:
        return None
    block = params.reference.classifier
    taught = block.epochs * (1 - block.held_out) * images.training * machine.learn
    every = images.training + images.held_out
    pairs = images.held_out * min(images.training, MOST_COMPARED)
    return taught + every * (machine.features + images.decode) + pairs * machine.compare


def _training(params: Params, model: str, speeds: Speeds | None) -> float | None:
    if speeds is None or model not in speeds.step:
        return None
    settings = params.teacher if model == TEACHER else params.student.method(model)
    shown = IMAGES * (TEACHER_STEPS if model == TEACHER else 2) * speeds.evaluation  # on the page of the trainings
    snapshots = params.ema.snapshots * (speeds.snapshot[model] + shown)
    return settings.images * speeds.step[model] * TRAINING + snapshots


def ways_of(params: Params, model: str) -> list[Way]:
    """The ways in which selection samples a model, the fewest steps first."""
    return ways(params, header_of(params, model))


def header_of(params: Params, model: str) -> dict[str, Any]:
    """What the header of a model that these parameters make says of its sampling."""
    header: dict[str, Any] = {"model": model, "network": {}, "label_dropout": params.teacher.label_dropout}
    if model != TEACHER:
        settings = params.student.method(model)
        further = {"segments": settings.segments, "any_steps": methods.find(model).any_steps or None}
        header |= {name: value for name, value in further.items() if value is not None}
        header["network"] = {"guidance": settings.guidance is not None}
    return header


def evaluations(params: Params, model: str, way: Way) -> int:
    """Evaluations of the network for one sample; a teacher's steps are Heun's."""
    return (2 * way.steps - 1) * (1 if way.guidance == 1 else 2) if model == TEACHER else way.steps


def evaluations_by_time(params: Params, model: str) -> list[int]:
    """Evaluations of the network that bring an image back from each time; those of a guided teacher are doubled."""
    sigma_d, way = params.network.sigma_d, ways_of(params, model)[0]
    header = {**header_of(params, model), "sigma_d": sigma_d, "t_max": t_max_of(params.sampler.sigma_max, sigma_d)}
    header["sampling"] = {each.steps: each.choice for each in ways_of(params, model)}
    times = times_of(header, header["t_max"])
    return [way_back(header, t).nfe * evaluations_per_call(header, way.guidance) for t in times]


def _selection(params: Params, model: str, machine: Machine, speeds: Speeds) -> float:
    select, found = params.select, ways_of(params, model)
    lengths = len(select.sigma_rel.teacher if model == TEACHER else select.sigma_rel.student)
    finer = 4 * select.refine
    tried: list[tuple[float, Way]] = []
    for way in found:
        most, alike = way.steps == found[-1].steps, sum(each.steps == way.steps for each in found)
        tried.append(((lengths if most else 1) + finer / alike, way))
    if select.coarse is not None:
        share = select.coarse / select.samples
        tried = [(number * (0.5 + share), way) for number, way in tried]
    if model != TEACHER:  # along the training
        tried += [(select.progress - 1, way) for way in {way.steps: way for way in found}.values()]
    seconds = 0.0
    for number, way in tried:
        drawn = select.samples * _sample(machine, speeds, evaluations(params, model, way))
        seconds += number * (drawn + (1 + BLOCKS) * DISTANCE)
    count = samples_of(select.samples, params.reference.classifier.features)
    return seconds + sum(
        count * _sample(machine, speeds, number) + (1 + BLOCKS) * DISTANCE
        for number in [0, *evaluations_by_time(params, model)]
    )


def _sample(machine: Machine, speeds: Speeds, number: int) -> float:
    """Seconds to draw an image in so many evaluations and to take its features."""
    return speeds.draw + number * speeds.evaluation + (machine.features or 0.0)


def _evaluation(params: Params, model: str, images: Images, machine: Machine, speeds: Speeds) -> float:
    settings, seconds = params.evaluate, 0.0
    best = {way.steps: evaluations(params, model, way) for way in ways_of(params, model)}
    numbers = [*best.values(), *([settings.teacher_few_steps] if model == TEACHER else [])]
    more = settings.batch / len(numbers) + settings.grid_rows * settings.grid_classes
    samples, real = settings.samples, images.training
    for number in numbers:
        seconds += (settings.repeats * samples + more) * _sample(machine, speeds, number)
    # What compares features with features grows with the product of their numbers.
    held = _held_out_pairs(samples, images.held_out)
    pairs = 3 * min(samples, real, MOST_IMAGES) ** 2 + held
    pairs += min(samples, MOST_IMAGES) * min(real, MOST_COMPARED) if images.held_out else 0
    seconds += (len(numbers) * pairs + DRAWS * held) * machine.compare
    return seconds + len(numbers) * (settings.repeats + 2 * BLOCKS + 14) * DISTANCE + 2 * DRAWS * DISTANCE


def _held_out_pairs(samples: int, held_out: int) -> int:
    count = min(held_out, samples, SIDE)
    return 0 if not count else 3 * count**2 * min(SIDES, samples // count)


def minutes_of(seconds: float) -> str:
    """A length of time for people, in minutes."""
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 10 else f"{math.ceil(minutes):,} min"
