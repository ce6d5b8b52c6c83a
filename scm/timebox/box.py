"""A run that ends in time: images are surveyed, this machine is measured, and the parameters follow from both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scm.base.tables import columns
from scm.build.models import device_of
from scm.errors import UserError
from scm.params import dump, validate
from scm.params.project import Project
from scm.presets.apply import preview
from scm.timebox.choose import Chooser, Plan, Rung, expectation, params_of, rungs
from scm.timebox.measure import Worker
from scm.timebox.predict import Seconds, minutes_of
from scm.timebox.speeds import Speeds
from scm.timebox.survey import DIGITS, survey

PRESETS = ("digits-plain", "cifar3", "folder")
"""Presets on which the parameters build."""
SHARE, MOST = 0.05, 90.0
"""The share of the time, and the seconds, that measuring may take."""
PARTS, SHORTEST, LONGEST = 25, 0.3, 2.0
"""Each thing is measured for the time over PARTS, within these limits of seconds."""


class Box(NamedTuple):
    """A plan and the words about it."""

    plan: Plan
    choices: list[str]
    prediction: list[str]
    outlook: list[str]


def boxed(
    root: Path, images: Path, minutes: float, resolution: int | None, labels: bool, say: Callable[[str], None],
    cpu_clock: bool = False,
) -> Box:  # fmt: skip
    """Surveys, measures and chooses; writes nothing.

    Args:
        root: the project's folder.
        images: folder or archive, or "digits".
        resolution: None = what the images and the time suggest.
        labels: False = their classes are not read.
        cpu_clock: True has `minutes` be minutes of CPU.

    Raises:
        UserError: no images or too few, too few minutes, or a path that no stage may read.
    """
    say(f"looking at {images}")
    found = survey(images, resolution, labels)
    ladder = rungs(found, resolution)
    presets = {name: dump(preview(root / "params.yaml", root, name)) for name in PRESETS}
    device = device_of(preview(root / "params.yaml", root, PRESETS[0]).runtime)
    place = "data/raw" if found.source == DIGITS else placed(images, root)

    granted = min(MOST, SHARE * 60 * minutes)
    each = min(max(granted / PARTS, SHORTEST), LONGEST)
    first = dump(params_of(found, place, ladder[0], device, presets))
    Project(root, validate(first, f"--images {images}")).check()
    measured = list[tuple[Rung, Speeds]]()
    with Worker(granted, cpu_clock) as worker:
        say(f"measuring this machine, for {granted:.0f} seconds at most")
        machine = worker.machine(first, found.classes)
        chooser = Chooser(found, place, machine, presets, resolution is not None)
        for rung in ladder:
            before = worker.left
            speeds = worker.network(dump(chooser.params(rung)), found.classes, each)
            if speeds is None:
                break
            measured.append((rung, speeds))
            say(f"{rung.resolution} pixels, width {rung.width}, blocks {rung.blocks}: measured")
            if not chooser.suffices(rung, speeds, minutes) or worker.left < 1.5 * (before - worker.left):
                break
    if not measured:
        raise UserError("not even the smallest network could be measured in time: give more minutes")
    plan = chooser.choose(measured, minutes)
    validate(dump(plan.params), "the chosen parameters")
    return Box(plan, columns(plan.reasons), table(plan.seconds, plan.total), expectation(plan))


def placed(images: Path, root: Path) -> str:
    """What data.path says: relative in the project, else absolute."""
    place = images.absolute()
    return place.relative_to(root.absolute()).as_posix() if place.is_relative_to(root.absolute()) else str(place)


def table(seconds: Seconds, total: float) -> list[str]:
    """Lines with the predicted time of each stage and of the whole."""
    rows = [(name, "unknown" if found is None else minutes_of(found)) for name, found in seconds.items()]
    return columns([*rows, ("together", minutes_of(total))], ("stage", "predicted"), "lr")
