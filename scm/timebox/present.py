"""Predicts the stages of the present params.yaml, for `scm plan --measure`."""

from collections.abc import Callable, Mapping, Sequence

from scm.data.reading.source import Wanted
from scm.data.shards.shards import INDEX, held_out_of, read_index
from scm.errors import UserError
from scm.params import dump
from scm.params.project import Project
from scm.pipeline.plan import RUNS, Step
from scm.pipeline.plan_cost import Estimate
from scm.timebox.measure import Worker
from scm.timebox.predict import Images, predicted
from scm.timebox.survey import surveyed

GRANTED, EACH = 90.0, 2.0
"""Seconds for all measuring, and for each thing that is measured."""


def measured(
    project: Project, steps: Sequence[Step], costs: Mapping[str, Estimate], say: Callable[[str], None]
) -> dict[str, Estimate]:
    """The estimates, with predicted times in place of those that are unknown or only scaled from other parameters.

    Args:
        say: prints why something stays unknown.
    """
    wanted = [step.name for step in steps if step.status == RUNS and _is_open(costs[step.name])]
    if not wanted:
        return dict(costs)
    params, speeds = project.params, None
    images = _images(project, say)
    say(f"measuring this machine, for {GRANTED:.0f} seconds at most")
    values, classes = dump(params), images.classes if images else 0
    with Worker(GRANTED) as worker:
        machine = worker.machine(values, classes)
        try:
            speeds = worker.network(values, classes, EACH)
        except UserError as error:
            say(f"the trainings' times stay unknown: {error}")
        else:
            if speeds is None:
                say("the trainings' times stay unknown: a step takes too long to be measured")
    found = predicted(params, images, machine, speeds)
    known = {name: Estimate(round(seconds, 1), about=True) for name in wanted if (seconds := found.get(name))}
    return {**costs, **known}


def _is_open(estimate: Estimate) -> bool:
    return estimate.seconds is None or estimate.about


def _images(project: Project, say: Callable[[str], None]) -> Images | None:
    """The images of data.path or, if these are not here, the prepared ones; None if there are neither."""
    data, shards = project.params.data, project.root / "data/shards"
    wanted = Wanted(data.source, project.root / data.path, data.labels, data.max_pixels, data.on_bad_image)
    try:
        found = surveyed(wanted, data.resolution, data.held_out)
        return Images(found.count - found.held_out, found.held_out, found.classes, found.read, found.decode)
    except UserError as error:
        if not (shards / INDEX).is_file():
            say(f"the times of what reads images stay unknown: {error}")
            return None
        index, aside = read_index(shards), held_out_of(shards)
        held_out = 0 if aside is None else read_index(aside)["count"]
        return Images(index["count"], held_out, len(index["classes"]))
