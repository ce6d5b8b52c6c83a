"""Measures this machine: a process of its own, which answers one question a line (`scm.timebox.measure` asks).

It starts as the training stages do, with the same settings of the memory and of the device. Networks are not trained
here but on random numbers, by the real trainer in a folder that is thrown away.
"""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scm.base.distributed import Ranks
from scm.base.precision import precision_on
from scm.base.project import TEACHER
from scm.base.randomness import generator
from scm.build.memory import Memory
from scm.build.memory import count as counted_memory
from scm.build.models import device_of, network_settings, new_model, new_student, with_precision
from scm.build.training import student_objective, student_probe, training_settings
from scm.errors import Interrupted, UserError
from scm.evaluation.augmentation import augment
from scm.evaluation.extractors.classifier import TURNS, ClassifierSettings, train_classifier
from scm.evaluation.precision_recall import precision_recall
from scm.generation.generate import batches
from scm.generation.sampler import ddim_sampler, t_max_of
from scm.networks import Model
from scm.networks.magnitude import fix_weights
from scm.objectives.diffusion import Diffusion
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.protocol import Batch
from scm.params import Params, validate
from scm.pipeline.ranks import own_threads
from scm.timebox.speeds import CPU_CLOCK, Machine, Speeds
from scm.training.loop import Trainer
from scm.training.stability import Stability

WARM, FEWEST = 2, 3
"""Steps before the clock runs, and fewest that it counts."""
AT_ONCE = {"cpu": 64, "cuda": 256}
"""Most images of a measured step: with more, an image takes as long."""
LEARNT, COMPARED = 512, 1000
"""Images with which the classifier (large images: a fourth), and the distances between features, are measured."""
SMALL = 50
"""A training's state is small if it takes less than the memory over SMALL."""
NEVER = 2**40
"""Images after which nothing happens."""
_clock = time.process_time if CPU_CLOCK in sys.argv[1:] else time.perf_counter


class Noise:
    """Stands for the data: the same random batch at every position."""

    def __init__(self, shape: list[int], classes: int, batch: int, sigma_d: float) -> None:
        self.x_0 = torch.randn(batch, *shape) * sigma_d
        self.labels = torch.arange(batch) % classes if classes else torch.full((batch,), -1)

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        return self.x_0, self.labels


class Clock:
    """Notes when each step is computed; asks for an end after `seconds` of the steps that count."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.times = list[float]()
        self._device, self._seconds = device, seconds

    def __call__(self) -> bool:
        self.times.append(now(self._device))
        counted = self.times[WARM:]
        return len(counted) > FEWEST and counted[-1] - counted[0] > self._seconds

    @property
    def step(self) -> float:
        """Seconds of a step."""
        counted = self.times[WARM:]
        return (counted[-1] - counted[0]) / (len(counted) - 1)


def now(device: torch.device) -> float:
    """The time at which the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _clock()


def taken(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the work, the second time that it is done."""
    work()
    started = now(device)
    work()
    return now(device) - started


def silent(_: str) -> None:
    """Says nothing."""


def machine(params: Params, classes: int) -> Machine:
    """Measures what does not depend on the network; `start` is the asker's to fill in."""
    ranks = Ranks.apart(device_of(params.runtime))
    device, block = ranks.device, params.reference.classifier
    precision = precision_on(device, params.teacher.precision)
    learn = features = None
    length = block.features
    if params.reference.extractor == "classifier":
        task = "class" if classes > 1 else "rotation"
        outputs = classes if task == "class" else TURNS
        shape = params.data.channels, params.data.resolution, params.data.resolution
        count = LEARNT if shape[1] <= 64 else LEARNT // 4
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
        labels = torch.arange(count) % outputs
        one = ClassifierSettings(**{**block.model_dump(), "epochs": 1})
        told: dict[str, Any] = {"task": task, "outputs": outputs, "seed": 0, "augment": augment, "device": device}
        train_classifier(images[:128], labels[:128], one, **told)
        started = now(device)
        extractor, _ = train_classifier(images, labels, one, **told)
        learn = (now(device) - started) / (count * (1 - block.held_out))
        some = images[:128].to(device)
        with torch.no_grad():
            features = taken(lambda: extractor(some), device) / len(some)
    real, drawn = torch.rand(2, COMPARED, length, device=device)
    compare = taken(lambda: precision_recall(real, drawn, params.evaluate.neighbours), device) / (3 * COMPARED**2)
    threads = 1 if CPU_CLOCK in sys.argv[1:] else own_threads(params.runtime.threads)
    return Machine(device.type, precision, threads, 0.0, learn, features, compare)


def network(params: Params, classes: int, seconds: float) -> Speeds:
    """Measures the trainings of the parameters and their sampling, each for about so many seconds."""
    ranks = Ranks.apart(device_of(params.runtime))
    _refuse_too_large(params, classes, ranks.device)
    step, snapshot = dict[str, float](), dict[str, float]()
    for item in params.evaluate.models:
        step[item], snapshot[item] = training(params, item, classes, seconds, ranks)
    settings = network_settings(params.network, classes, params.shape, params.teacher.augment)
    model = new_model(settings, with_precision(params.teacher, ranks, silent), 0).to(ranks.device)
    evaluation, draw = sampling(params, model, classes, ranks.device)
    return Speeds(step, snapshot, evaluation, draw, sum(value.numel() for value in model.parameters()))


def _refuse_too_large(params: Params, classes: int, device: torch.device) -> None:
    """Refuses trainings that would need more than half of the memory, from a count on tensors without data."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for item in params.evaluate.models:
        stage = "train_teacher" if item == TEACHER else "train_student"
        settings = params.teacher if item == TEACHER else params.student.method(item)
        counted = counted_memory(params, stage, item, classes)
        need = counted.weights + counted.gradients + counted.divisible
        if memory / SMALL < need < memory / 2:  # counting what a step needs beside it takes seconds
            batch = min(settings.batch, AT_ONCE[device.type])
            need = Memory(counted, batch).need(batch, "none").total
        if need > memory / 2:
            told = f"{need / 2**30:.1f} GiB, more than half of the {memory / 2**30:.1f} GiB of this {device.type}"
            raise UserError(f"{stage} of {item} needs {told}, and is not measured")


def training(params: Params, item: str, classes: int, seconds: float, ranks: Ranks) -> tuple[float, float]:
    """Seconds of a step for one image, and of what is measured at a snapshot."""
    network = network_settings(params.network, classes, params.shape, params.teacher.augment)
    own = with_precision(params.teacher, ranks, silent)
    model, auxiliary, teacher = new_model(network, own, 0), None, None
    settings: Any = own
    objective: Any = Diffusion(network.sigma_d, own.p_mean, own.p_std, own.label_dropout, own.augment)
    if item != TEACHER:
        settings = with_precision(params.student.method(item), ranks, silent)
        teacher = model.requires_grad_(False).eval()
        model = new_student(teacher, settings, 0)
        objective, auxiliary = student_objective(item, settings, params.sampler, teacher, 0)
        fix_weights(teacher)
    nn.ModuleList([part for part in (model, teacher, auxiliary and auxiliary.module) if part]).to(ranks.device)
    batch = min(settings.batch, AT_ONCE[ranks.device.type])
    data = Noise(params.shape, classes, batch, network.sigma_d)
    objective, solving = apart(objective, data, ranks.device)
    header = {"model": item, "network": model.settings.to_dict(), "sigma_d": network.sigma_d}
    loop = training_settings(params, settings, item, header)
    often = {"log_every": NEVER, "checkpoint_every": NEVER, "checkpoint_minutes": None}
    loop = replace(loop, images=NEVER, batch=batch, snapshots=1, **often)
    clock = Clock(ranks.device, seconds)
    with tempfile.TemporaryDirectory() as work, suppress(Interrupted):
        Trainer(model, objective, data, loop, Path(work), ranks, clock, silent, auxiliary).run()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    probe: Any = (
        Stability(data, 0, network.sigma_d) if item == TEACHER else student_probe(params, settings, model, data)
    )
    started = now(ranks.device)
    probe(model, weights)
    return (clock.step + solving) / batch, now(ranks.device) - started


def apart(objective: Any, data: Noise, device: torch.device) -> tuple[Any, float]:
    """The objective without the solving of trajectories, and the seconds that this adds to a step in the mean."""
    regression = getattr(objective, "consistency", objective)
    if not isinstance(regression, TrajectoryDistillation):
        return objective, 0.0
    kept = replace(regression, kept=1, uses=NEVER)
    x_0, labels = (values.to(device) for values in data.batch_at(0))
    batch = Batch(x_0, labels, generator(0, "trajectories", device=device))
    kept.places(batch, 0)
    seconds = taken(lambda: kept.solve(batch, 0, 1), device) / (regression.uses * regression.every)
    return kept if regression is objective else replace(objective, consistency=kept), seconds


@torch.no_grad()
def sampling(params: Params, model: Model, classes: int, device: torch.device) -> tuple[float, float]:
    """Seconds of an evaluation for one drawn image, and of an image beside its evaluations."""
    count, sigma_d = min(params.evaluate.batch, AT_ONCE[device.type]), model.settings.sigma_d
    labels = torch.arange(count) % classes if classes else torch.full((count,), -1)
    t_max = t_max_of(params.sampler.sigma_max, sigma_d)

    def drawn(steps: int) -> float:
        sampler = ddim_sampler([t_max * (1 - step / steps) for step in range(steps + 1)], sigma_d)
        place = params.shape, count, device
        return taken(lambda: list(batches(model, sampler, range(count), labels, *place)), device) / count

    one, three = drawn(1), drawn(3)
    evaluation = max((three - one) / 2, three / 6)
    return evaluation, max(one - evaluation, 0.0)


def answer(line: str) -> dict[str, Any]:
    """The answer to one question: a Machine or Speeds as plain values, or what is wrong under "error"."""
    asked = json.loads(line)
    try:
        params = validate(asked["params"], "params.yaml")
        if "seconds" in asked:
            found: Any = network(params, asked["classes"], asked["seconds"])
        else:
            found = machine(params, asked["classes"])
    except UserError as error:
        return {"error": str(error)}
    return asdict(found)


def main() -> None:
    print(json.dumps({"ready": time.process_time()}), flush=True)
    for line in sys.stdin:
        found = answer(line)
        if any(isinstance(value, float) and not math.isfinite(value) for value in found.values()):
            found = {"error": "a time could not be measured"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
