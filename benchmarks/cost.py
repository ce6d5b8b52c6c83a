"""What the paper's trainings cost on H100 GPUs, on paper: `python -m benchmarks.cost [--presets imagenet512-s ...]`.

Counted, on tensors without data: floating-point operations of an image (convolutions and matrix products of the forward
passes, the tangent and the backward pass), parameters, and the bytes of an image's activations. Assumed, as options:

- --utilisation: the part of the GPU's peak that the counted operations reach;
- --inside and --between: GB/s with which each GPU of a node of 8, and each GPU of several nodes, takes part in a sum;
- --memory: GiB of a GPU for state and activations;
- --price: dollars of a GPU hour.

A step takes its arithmetic and what is left of the gradients' all-reduce, 2 (n - 1) / n of 4 bytes a parameter, after
the backward pass of the last part of the batch has hidden its share. Data, checkpoints and the host cost nothing here.
Efficiency is the arithmetic's part of a step. `ends` is the number of GPUs, doubled from 8, at which the efficiency is
first below 0.5, or at which the batch has no image left for a GPU.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.step_cost import ROOT, LiveMemory, Operations, Undrawn, preset_params, preset_settings
from scm.base.project import TEACHER
from scm.build.memory import on_gpu
from scm.build.models import new_model, new_student
from scm.build.training import student_objective
from scm.errors import UserError
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Objective
from scm.params import Params
from scm.presets import table
from scm.training.gradients import parts_of

PEAK = {"fp16": 989e12, "bf16": 989e12, "fp32": 67e12}
"""Operations a second of an H100 SXM: tensor cores without sparsity; float32 without TF32."""
NODE, GPUS = 8, (8, 64, 512)
GRADIENT, STATE = 4, {TEACHER: 24, "scd": 28}
"""Bytes a parameter: the gradient; weights, gradient, Adam's two and two averages, and a frozen teacher."""
IMAGES = 2
"""Images of the batch that is counted."""


@dataclass(frozen=True)
class Assumed:
    """What nobody has measured: see the options."""

    utilisation: float
    inside: float
    between: float
    memory: float
    price: float


@dataclass(frozen=True)
class Work:
    """A training; operations and bytes are of one image.

    Attributes:
        forward: operations of the forward passes and of the tangent.
        backward: operations of the backward pass.
        activations: peak bytes of the forward's tensors.
        state: bytes a parameter that stay on the GPU.
        peak: operations a second that the GPU is built for.
        batch: images of a step.
        images: images of the training.
    """

    forward: float
    backward: float
    activations: float
    parameters: int
    state: int
    peak: float
    batch: int
    images: int


@dataclass(frozen=True)
class Step:
    """Seconds of a step: arithmetic, the gradients' all-reduce, and the part of it that the backward does not hide."""

    arithmetic: float
    sending: float
    waiting: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.waiting

    @property
    def efficiency(self) -> float:
        return self.arithmetic / self.seconds


def work_of(params: Params, preset: str, training: str) -> Work:
    """Counts the training of a preset's teacher, or of its student by the method `training`."""
    network = preset_settings(preset)
    with torch.device("meta"):
        teacher = new_model(network, on_gpu(params.teacher), 0)
        x_0 = torch.empty(IMAGES, network.channels, network.resolution, network.resolution)
        labels = torch.zeros(IMAGES, dtype=torch.int64)
        if training == TEACHER:
            settings, model = on_gpu(params.teacher), teacher
            objective: Objective = Diffusion(network.sigma_d, settings.p_mean, settings.p_std, settings.label_dropout)
        else:
            settings = on_gpu(params.student.method(training))
            model = new_student(teacher, settings, 0)
            objective, _ = student_objective(
                training, settings, params.sampler, teacher.requires_grad_(False).eval(), 0
            )
    with Operations() as ahead, LiveMemory() as memory:
        loss = objective(model, Undrawn(x_0, labels, torch.Generator()), settings.images).value.mean()
    with Operations() as back:
        loss.backward()
    return Work(
        forward=ahead.total / IMAGES,
        backward=back.total / IMAGES,
        activations=memory.peak / IMAGES,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        state=STATE[training],
        peak=PEAK[settings.precision],
        batch=settings.batch,
        images=settings.images,
    )


def parts_in(work: Work, images: int, memory: float) -> int:
    """Parts in which a GPU computes its images, so that state and one part's activations fit `memory` GiB.

    Raises:
        UserError: one image does not fit.
    """
    room = memory * 2**30 - work.state * work.parameters
    if room < work.activations:
        raise UserError(f"--memory {memory:g}: it does not hold the state and one image's activations; give more")
    return parts_of(images, int(room / work.activations))


def step(work: Work, gpus: int, assumed: Assumed) -> Step:
    """A step on so many GPUs, which share the batch equally."""
    images, speed = work.batch // gpus, work.peak * assumed.utilisation
    bandwidth = (assumed.inside if gpus <= NODE else assumed.between) * 1e9
    sending = 2 * (gpus - 1) / gpus * GRADIENT * work.parameters / bandwidth
    hidden = work.backward * images / parts_in(work, images, assumed.memory) / speed
    return Step((work.forward + work.backward) * images / speed, sending, max(0.0, sending - hidden))


def end_of_scaling(work: Work, assumed: Assumed) -> int:
    gpus = NODE
    while work.batch % gpus == 0 and step(work, gpus, assumed).efficiency >= 0.5:
        gpus *= 2
    return gpus


def money(work: Work, gpus: int, assumed: Assumed) -> str:
    """Steps a second, efficiency, days and thousands of dollars of the training."""
    each = step(work, gpus, assumed)
    hours = work.images / work.batch * each.seconds / 3600
    dollars = hours * gpus * assumed.price / 1000
    return f"{1 / each.seconds:.2f} \\| {each.efficiency:.2f} \\| {hours / 24:,.1f} \\| {dollars:,.1f}"


def milliseconds(work: Work, gpus: int, assumed: Assumed) -> str:
    """A step's arithmetic, its all-reduce, and what is left of that after the backward pass."""
    each = step(work, gpus, assumed)
    return " \\| ".join(f"{seconds * 1e3:,.0f}" for seconds in (each.arithmetic, each.sending, each.waiting))


def row(name: str, work: Work, assumed: Assumed, cell: Callable[[Work, int, Assumed], str]) -> str:
    cells = [cell(work, gpus, assumed) if work.batch % gpus == 0 else "-" for gpus in GPUS]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    imagenet = [entry.name for entry in table.entries(ROOT) if entry.name.startswith("imagenet")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=imagenet, help="default: ImageNet's")
    parser.add_argument("--utilisation", type=float, default=0.35, help="(default: %(default)s)")
    parser.add_argument("--inside", type=float, default=300, help="GB/s (default: %(default)s)")
    parser.add_argument("--between", type=float, default=40, help="GB/s (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=72, help="GiB (default: %(default)s)")
    parser.add_argument("--price", type=float, default=2.5, help="dollars (default: %(default)s)")
    options = parser.parse_args()
    assumed = Assumed(options.utilisation, options.inside, options.between, options.memory, options.price)
    print(f"Assumed: {assumed.utilisation:.0%} of the peak; {assumed.inside:g} GB/s inside a node,", end=" ")
    print(f"{assumed.between:g} between nodes; {assumed.memory:g} GiB; {assumed.price:g} dollars a GPU hour.")
    numbers = " | ".join(f"{gpus} GPUs" for gpus in GPUS)
    print("steps/s \\| efficiency \\| days \\| 1,000 dollars:\n")
    print(f"| training | TFLOP an image | {numbers} | ends |\n|---|---|{'---|' * len(GPUS)}---|")
    works: dict[str, Work] = {}
    for preset in options.presets:
        params = preset_params(preset)
        for training in STATE:
            name = f"{preset}, {training}"
            work = works[name] = work_of(params, preset, training)
            counted = f"{name} | {(work.forward + work.backward) / 1e12:.2f}"
            print(f"{row(counted, work, assumed, money)} {end_of_scaling(work, assumed):,} |", flush=True)
    print("\nms of a step: arithmetic \\| all-reduce \\| what the backward pass does not hide of it:\n")
    print(f"| training | GB of gradients | {numbers} |\n|---|---|{'---|' * len(GPUS)}")
    for name, work in works.items():
        print(row(f"{name} | {GRADIENT * work.parameters / 1e9:.1f}", work, assumed, milliseconds))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
