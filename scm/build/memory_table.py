"""The table of `scm plan --memory`: what each training needs of a GPU, on how many GPUs, and with which settings."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scm.base.project import TEACHER
from scm.build.memory import Choice, Memory, choose, count, usable
from scm.data.shards.shards import INDEX, read_index
from scm.errors import UserError
from scm.params import Params
from scm.params.schema import Runtime

GIB = 2**30
GPUS = 1, 8, 16, 32, 64
SIZES = {80: 79 * GIB, 141: 139 * GIB}
"""A GPU's memory in GB, as it is sold, and the bytes that its driver gives to programs."""
Sharding = Literal["none", "optimizer"]


@dataclass(frozen=True)
class Fit:
    """A training on a number of GPUs; `choice` is None if they cannot share its batch equally."""

    training: str
    gpus: int
    gigabytes: int
    shard: Sharding
    batch: int
    choice: Choice | None


def trainings(params: Params) -> list[tuple[str, str]]:
    """The stage and the item of each training."""
    return [("train_teacher", TEACHER), *(("train_student", method) for method in params.student.methods)]


def classes_of(root: Path) -> int:
    """Classes of the prepared data; 0 if there are none yet, so that labels are left out."""
    for folder in (root / "data/latents", root / "data/shards"):
        if (folder / INDEX).exists():
            try:
                return len(read_index(folder)["classes"])
            except UserError:
                continue  # the stage that reads it says what is wrong
    return 0


def fits(params: Params, classes: int, say: Callable[[str], None] = lambda training: None) -> list[Fit]:
    """Each training on each number of GPUs of each size, with the settings of `runtime` and what `auto` stands for.

    Args:
        say: called with the name of a training before it is counted, which takes seconds.
    """
    found: list[Fit] = []
    for stage, item in trainings(params):
        say(item)
        counted, batch = count(params, stage, item, classes), batch_of(params, item)
        for size, total in SIZES.items():
            for gpus in GPUS:
                shard = sharding(params, gpus)
                choice = None
                if batch % gpus == 0:
                    memory = Memory(counted, batch // gpus, gpus if shard == "optimizer" else 1)
                    limit, way = params.runtime.images_at_once, params.runtime.checkpointing
                    choice = choose(memory, usable(total), limit, way)
                found.append(Fit(item, gpus, size, shard, batch, choice))
    return found


def batch_of(params: Params, item: str) -> int:
    """Images of a step, over all processes."""
    return params.teacher.batch if item == TEACHER else params.student.method(item).batch


def sharding(params: Params, gpus: int) -> Sharding:
    """What `runtime.shard` stands for: auto divides moments and averages wherever there are several processes."""
    given = params.runtime.shard
    return "none" if gpus == 1 or given == "none" else "optimizer"


def rows(found: Sequence[Fit]) -> tuple[list[str], list[list[str]]]:
    """Head and cells: a row for each training and size of GPU."""
    head = ["training", "GPU", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)]
    cells: dict[tuple[str, int], list[str]] = {}
    for fit in found:
        cells.setdefault((fit.training, fit.gigabytes), []).append(_cell(fit))
    return head, [[name, f"{size} GB", *row] for (name, size), row in cells.items()]


def _cell(fit: Fit) -> str:
    choice = fit.choice
    if choice is None:
        return "-"
    state, activations = _gib(choice.need.state + choice.need.gradients), _gib(choice.need.activations)
    again = "*" if choice.checkpointing == "blocks" else ""
    return f"{'' if choice.fits else 'no: '}{state} + {activations} ({choice.micro_batch}{again})"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.1g}"


LEGEND = (
    "GiB of state + of activations on each GPU (images at a time; * = runtime.checkpointing: blocks). Counted on",
    "tensors without data; 6 % of a GPU's memory and 1.5 GiB are assumed to go to its allocator, context and NCCL.",
)


def remarks(params: Params, found: Sequence[Fit]) -> list[str]:
    """A line for each training that does not fit somewhere: where, and which key to change."""
    lines: list[str] = []
    for name in dict.fromkeys(fit.training for fit in found):
        key = TEACHER if name == TEACHER else f"student.{name}"
        own = [fit for fit in found if fit.training == name]
        uneven = sorted({fit.gpus for fit in own if fit.choice is None})
        if uneven:
            number = ", ".join(map(str, uneven))
            lines.append(f"{name}: {number} GPUs cannot share {key}.batch = {own[0].batch} equally (-)")
        small = [(fit, fit.choice) for fit in own if fit.choice is not None and not fit.choice.fits]
        if small:
            places = ", ".join(f"{fit.gpus} x {fit.gigabytes} GB" for fit, _ in small)
            lines.append(f"{name} does not fit {places}: {_remedy(params.runtime, *small[-1])}")
    return lines


def _remedy(runtime: Runtime, fit: Fit, choice: Choice) -> str:
    if runtime.images_at_once is not None and choice.micro_batch > 1:
        return "set runtime.micro_batch: auto"
    if runtime.checkpointing == "none":
        return "set runtime.checkpointing: auto"
    if fit.gpus > 1 and fit.shard == "none":
        return "set runtime.shard: auto"
    state = choice.need.state + choice.need.gradients
    return f"its state alone is {_gib(state)} GiB; use more or larger GPUs, or set a smaller network.width"


def as_json(found: Sequence[Fit]) -> list[dict[str, Any]]:
    """The table for programs: for each training, number and size of GPUs the bytes, the settings, and if they fit."""
    return [
        {
            **{key: value for key, value in asdict(fit).items() if key != "choice"},
            "micro_batch": choice and choice.micro_batch,
            "checkpointing": choice and choice.checkpointing,
            "state": choice and choice.need.state + choice.need.gradients,
            "activations": choice and choice.need.activations,
            "fits": choice is not None and choice.fits,
        }
        for fit in found
        for choice in [fit.choice]
    ]
