"""Budgets that are scaled together: a tenth of the images, with schedules, selection and evaluation that fit them.

A budget that is cut alone leaves warm-ups longer than the training, and a selection that costs several times as much.
The images and what measures them (data, codec, reference) stay, so a scaled run shares them with the whole one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scm.base.count import SUFFIXES, Count
from scm.base.project import TEACHER
from scm.params.notes import FEATURES

STEPS = 16
"""Fewest steps that a training is scaled down to."""
UNKNOWN_FEATURES = max(FEATURES.values())
"""Features that an extractor is taken to have whose file has not been read."""
KI = SUFFIXES["Ki"]


@dataclass(frozen=True)
class Scaled:
    """The values after scaling; `told` says, one line each, what is larger than the factor asks, and why."""

    values: dict[str, Any]
    told: list[str]


def scaled(values: Mapping[str, Any], factor: float) -> Scaled:
    """Scales the values that `TABLE` names, as a file of parameters or a preset has them.

    Values of 0 and null stay, and so does everything if the factor is 1.

    Args:
        values: plain and complete but for `runtime`; they do not change.
        factor: greater than 0.
    """
    if factor == 1:
        return Scaled(_applied(values, lambda path, value: value), [])
    work = _Scaling(values, factor)
    return Scaled(_applied(values, work.changed), work.told)


def _applied(node: Any, change: Callable[[tuple[str, ...], Any], Any], path: tuple[str, ...] = ()) -> Any:
    """A copy of a tree of mappings with its leaves changed; a list is a leaf."""
    if isinstance(node, Mapping):
        return {key: _applied(inner, change, (*path, str(key))) for key, inner in node.items()}
    return change(path, node)


@dataclass
class _Scaling:
    """How each kind of value scales; the methods take the parts of a key and its value."""

    values: Mapping[str, Any]
    factor: float
    told: list[str] = field(default_factory=list)

    def changed(self, path: tuple[str, ...], value: Any) -> Any:
        how = next((how for key, how in TABLE.items() if _fits(key.split("."), path)), None)
        return value if how is None or not value else how(self, path, value)

    def budget(self, path: tuple[str, ...], value: Any) -> int | str:
        """Images of a training: at least `STEPS` batches."""
        return self._count(value, STEPS * self._batch(path))

    def schedule(self, path: tuple[str, ...], value: Any) -> int | str:
        """Images within a training, such as a warm-up: at least one batch."""
        return self._count(value, self._batch(path))

    def doubling(self, path: tuple[str, ...], value: Any) -> int | str:
        """ECT's stages: the same number of them."""
        before = self.values["student"][path[1]]["images"]
        after = self.budget((*path[:-1], "images"), before)
        return _written(-(-Count(value) * Count(after) // Count(before)))

    def halflife(self, path: tuple[str, ...], value: Any) -> int | str:
        """Half-life of an average: at most a fifth of the shortest training."""
        shortest = min(images for images, _ in self._trainings())
        return _written(max(1, min(Count(self._count(value, 1)), shortest // 5)))

    def snapshots(self, path: tuple[str, ...], value: int) -> int:
        """Snapshots of a training: no more than it has steps."""
        return max(1, min(value, *(images // batch for images, batch in self._trainings())))

    def progress(self, path: tuple[str, ...], value: int) -> int:
        """Snapshots that are measured: no more than there are."""
        return min(value, self.snapshots(path, self.values["ema"]["snapshots"]))

    def samples(self, path: tuple[str, ...], value: Any) -> int | str:
        """Samples: down alone, as more of them make no better model, and to no fewer than the extractor's features."""
        wanted, least = self._wanted(value), min(Count(value), self._fewest(path[0]))
        if wanted >= least:
            return value if self.factor > 1 else _like(value, wanted, least)
        features = f"the {_features(self.values):,} features that the distance compares need as many"
        self.told.append(f"{'.'.join(path)} = {least}: {self.factor:g} of it would be {wanted}, but {features}")
        return least

    def coarse(self, path: tuple[str, ...], value: Any) -> int | str:
        """Samples of the first look: the same part of select.samples."""
        before = self.values["select"]["samples"]
        after = Count(_Scaling(self.values, self.factor).samples(("select", "samples"), before))
        return value if after == Count(before) else max(2, Count(value) * after // Count(before))

    def candidates(self, path: tuple[str, ...], value: list[Any]) -> list[Any]:
        """Candidates of a search: fewer where its samples are more than the factor asks, so that its cost follows."""
        kept = max(1, round(len(value) * self._overspent("select")))
        return [value[(2 * index + 1) * len(value) // (2 * kept)] for index in range(kept)]

    def repeats(self, path: tuple[str, ...], value: int) -> int:
        """Ranges of seeds: fewer, as candidates are."""
        return max(1, round(value * self._overspent("evaluate")))

    def lines(self, path: tuple[str, ...], value: Any) -> int | str:
        """Images between two lines of a curve: down alone, to no less than one batch."""
        return value if self.factor > 1 else self.schedule((TEACHER, path[-1]), value)

    def _count(self, value: Any, least: int) -> int | str:
        number = Count(value)
        return _written(max(_rounded(number * self.factor), min(least, number)))

    def _wanted(self, value: Any) -> int:
        return round(Count(value) * min(self.factor, 1.0))

    def _fewest(self, section: str) -> int:
        neighbours = self.values[section].get("neighbours", 1)
        return max(2, _features(self.values), neighbours + 1)

    def _overspent(self, section: str) -> float:
        """The share of its samples that a section would have if nothing but the factor counted: 1 = all."""
        before = self.values[section]["samples"]
        after = _Scaling(self.values, self.factor).samples((section, "samples"), before)
        return min(1.0, self._wanted(before) / Count(after))

    def _batch(self, path: tuple[str, ...]) -> int:
        """The batch of the training that a key belongs to."""
        section = self.values[path[0]]
        return section["batch"] if path[0] == TEACHER else _own(section, path[1], "batch")

    def _trainings(self) -> Iterator[tuple[int, int]]:
        """Images after scaling, and batch, of the teacher and of each student that is trained."""
        student = self.values["student"]
        named = [method for method in student["methods"] if isinstance(student.get(method), Mapping)]
        for path, block in ((TEACHER,), self.values[TEACHER]), *((("student", name), student[name]) for name in named):
            yield Count(self.budget(path, block["images"])), self._batch(path)


TABLE: dict[str, Callable[[_Scaling, tuple[str, ...], Any], Any]] = {
    "teacher.images": _Scaling.budget,
    "teacher.lr.warmup": _Scaling.schedule,
    "teacher.lr.decay_from": _Scaling.schedule,
    "student.*.images": _Scaling.budget,
    "student.*.lr.warmup": _Scaling.schedule,
    "student.*.lr.decay_from": _Scaling.schedule,
    "student.*.tangent_warmup": _Scaling.schedule,
    "student.*.doubling": _Scaling.doubling,
    "ema.snapshots": _Scaling.snapshots,
    "ema.halflife": _Scaling.halflife,
    "select.sigma_rel.*": _Scaling.candidates,
    "select.guidance.*": _Scaling.candidates,
    "select.t_mid": _Scaling.candidates,
    "select.coarse": _Scaling.coarse,
    "select.samples": _Scaling.samples,
    "select.progress": _Scaling.progress,
    "evaluate.samples": _Scaling.samples,
    "evaluate.repeats": _Scaling.repeats,
    "runtime.log_every": _Scaling.lines,
}
"""The keys that scale, and how; a * stands for any one part of a key. All other values stay as they are."""


def _fits(pattern: list[str], path: tuple[str, ...]) -> bool:
    return len(pattern) == len(path) and all(part in ("*", own) for part, own in zip(pattern, path, strict=True))


def _own(student: Mapping[str, Any], method: str, key: str) -> Any:
    """The value of a method's own block, or else the common one."""
    return student[method].get(key, student["common"][key])


def _features(values: Mapping[str, Any]) -> int:
    reference = values["reference"]
    own = reference.get(reference["extractor"])
    return own["features"] if isinstance(own, Mapping) else FEATURES.get(reference["extractor"], UNKNOWN_FEATURES)


def _rounded(number: float) -> int:
    """To a multiple of 1Ki, below 16Ki of 64 and below 1Ki of 1; what was no larger stays no larger."""
    unit = KI if number >= 16 * KI else 64 if number >= KI else 1
    return round(number / unit) * unit


def _written(number: int) -> int | str:
    """With a suffix where there is a short one: 2Mi, 19Ki, 2432."""
    for suffix in ("Mi", "Ki"):
        if number and number % SUFFIXES[suffix] == 0:
            return f"{number // SUFFIXES[suffix]}{suffix}"
    return int(number)


def _like(value: Any, number: int, least: int) -> int | str:
    """A count of samples as the former one was written: with a suffix, or with two digits that are not 0."""
    if isinstance(value, str):
        return _written(max(least, _rounded(number)))
    unit = 10 ** max(0, len(str(number)) - 2)
    return max(least, round(number / unit) * unit)
