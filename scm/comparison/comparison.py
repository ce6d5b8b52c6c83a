"""A comparison as a whole: two sides, the verdict on each model, what else changed, and both sides' sample grids."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scm.comparison import sides
from scm.comparison.judging import DATA, Changed, Judged, distance_name, judged
from scm.comparison.sides import Side
from scm.errors import UserError
from scm.params.project import Project
from scm.presets.changes import differences
from scm.report.wording import display_name
from scm.results.reading import run_names, sample_path

CODE = ("scm/", "stages/")
MOST_FILES = 6
"""Files of code that are named at most."""
NOISE = (
    "± is one standard error of measuring: of the mean over ranges of seeds, or, of a single range, that of drawing so "
    "many samples (the jackknife); for precision, recall and copies that of counting. A difference counts from "
    "{deviations:g} standard errors (se) of the difference on. How much a second training with another seed would "
    "differ is not included."
)


@dataclass(frozen=True)
class Pair:
    """The sample grids of a model at one number of evaluations; None where a side has none."""

    evaluations: int
    then: Path | None
    now: Path | None


@dataclass(frozen=True)
class Comparison:
    """What `scm compare` found.

    Attributes:
        models: the published model first.
        params: parameters that differ behind the models' figures.
        notes: sentences about everything else that differs or is missing.
    """

    then: Side
    now: Side
    models: list[Judged]
    params: list[Changed]
    notes: list[str]
    deviations: float

    @property
    def title(self) -> str:
        return f"{self.now.told} against {self.then.told}"

    @property
    def distance(self) -> str:
        return distance_name(self.now)

    @property
    def noise(self) -> str:
        return NOISE.format(deviations=self.deviations)

    def pairs(self, model: Judged) -> list[Pair]:
        """The model's grids, the decisive number of evaluations first."""
        counts = list(model.changes) or [model.decisive]
        return [Pair(each, *(_grid(side, model.model, each) for side in (self.then, self.now))) for each in counts]


@contextmanager
def compared(project: Project, revisions: list[str]) -> Iterator[Comparison]:
    """Compares the working tree with one revision, or the second of two with the first.

    Args:
        revisions: none = the last other results.

    Raises:
        UserError: no such revision, no results there, or no model that both sides have.
    """
    asked_for = [revisions[0] if revisions else sides.base_of(project.root), *(revisions[1:] or [None])]
    with ExitStack() as stack:
        then, now = (stack.enter_context(sides.opened(project, each)) for each in asked_for)
        settings = project.params.publish
        shared = [model for model in now.figures if model in then.figures]
        if not shared:
            told = " and ".join(f"{side.name} has {', '.join(side.figures)}" for side in (then, now))
            raise UserError(f"the two sides have no model in common ({told}): name another revision")
        shared.sort(key=lambda model: model != settings.model)
        asked = {settings.model: settings.evaluations}
        models = [judged(then, now, model, settings.deviations, asked.get(model)) for model in shared]
        stages = run_names(shared)
        notes = list(_notes(then, now, stages))
        before, after = ({"preset": side.preset} | side.params(*stages) for side in (then, now))
        yield Comparison(then, now, models, differences(before, after), notes, settings.deviations)


def _notes(then: Side, now: Side, stages: list[str]) -> Iterator[str]:
    for side, other in ((then, now), (now, then)):
        if alone := [display_name(model) for model in side.figures if model not in other.figures]:
            yield f"Only in {side.name}: {', '.join(alone)}."
    differ = _read_differently(then, now, stages)
    if DATA in differ:
        yield f"The images differ ({DATA})."
    code = sorted(path for path in differ if path.startswith(CODE))
    if code:
        rest = f" and {len(code) - MOST_FILES} more" if len(code) > MOST_FILES else ""
        yield f"The code differs: {', '.join(code[:MOST_FILES])}{rest}."
    for side in (then, now):
        yield from side.doubts


def _read_differently(then: Side, now: Side, stages: list[str]) -> set[str]:
    """Paths of which the stages that both sides have read other contents."""
    found = set[str]()
    for stage in {*stages} & {*then.stages} & {*now.stages}:
        before, after = then.read(stage), now.read(stage)
        found |= {path for path in {*before, *after} if before.get(path) != after.get(path)}
    return found


def _grid(side: Side, model: str, evaluations: int) -> Path | None:
    path = sample_path(side.folder, model, evaluations)
    return path if path.is_file() else None
