"""Chooses the parameters with which `scm run` ends within some minutes: pure functions of what was measured.

The network is the largest one that sees enough images in that time. What is left beside the fixed work (starts of the
stages, images, classifier) and the measuring (selection, evaluation) goes to the trainings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scm.base.project import TEACHER
from scm.errors import UserError
from scm.params import Params
from scm.presets.overlays import laid_over
from scm.timebox.predict import TRAINING, Images, Seconds, predicted, total
from scm.timebox.speeds import Machine, Speeds
from scm.timebox.survey import SHARE, Survey

Values = dict[str, Any]

FEWEST_IMAGES = 100
"""Fewer images are refused."""
MARGIN = 0.1
"""Share of the time that the plan leaves free, for what a prediction does not know."""
MEASURING, TEACHING = 0.2, 0.08
"""Shares of the time for selection and evaluation, and for the classifier."""
PASSES = 128
"""A network is small enough for the images if its teacher has seen enough after so many passes over them."""
KI = 1024
UNIT = 3 * KI
"""The teacher's images are a multiple of this: two thirds of them are sCD's, one third sCT's."""
FEWEST, MOST = 15 * KI, 64 * KI * KI
"""Images that a teacher sees at least, and at most."""
WIDTHS = ((16, 1), (24, 1), (32, 1), (48, 1), (64, 1), (64, 2), (96, 2), (128, 2), (128, 3))
"""Widths and blocks of the networks, from small to large."""
PHOTOS = ((16, ((16, 1), (24, 1))), (32, ((24, 1), (32, 1), (48, 1))), (64, WIDTHS[2:]))
"""Resolutions for images larger than the largest of them, with the networks of each."""
NATIVE, LARGEST = 32, 128
"""Pixels on a side up to which images keep their size, and at most."""


@dataclass(frozen=True)
class Rung:
    """A network and the resolution of its images; each rung needs more images than those below it."""

    resolution: int
    width: int
    blocks: int

    @property
    def enough(self) -> int:
        """Images that its teacher should see. The preset digits-short, which is (8, 16, 1), has as many."""
        return 64 * KI * self.resolution * self.width * self.blocks // (8 * 16)


@dataclass(frozen=True)
class Measuring:
    """How thoroughly models are selected and evaluated.

    Attributes:
        lengths: candidates for the average's length.
        t_mid: candidates for the time of the second step.
        fewest: samples of a candidate, at least.
        points: of a training that are measured afterwards.
    """

    lengths: tuple[float, ...]
    t_mid: tuple[float, ...]
    fewest: int
    points: int


LEVELS = (
    Measuring((0.03, 0.05, 0.1, 0.2), (0.4, 0.6, 0.8, 1.1), 1 * KI, 4),
    Measuring((0.05, 0.1, 0.2), (0.6, 0.8, 1.1), 768, 4),
    Measuring((0.05, 0.15), (0.8, 1.1), 512, 2),
    Measuring((0.1,), (0.8,), 256, 1),
)
"""From thorough to brief; the last one is taken even where it exceeds its share of the time."""
MOST_SAMPLES = 2 * KI


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        preset: the preset that the values are laid over.
        values: the values that differ from it.
        params: all values.
        reasons: each choice and why, in the order of params.yaml.
        seconds: predicted, by stage.
        total: predicted seconds of `scm run`.
        rung: the network.
        training: number of images that train.
    """

    preset: str
    values: Values
    params: Params
    reasons: list[tuple[str, str]]
    seconds: Seconds
    total: float
    rung: Rung
    training: int


def rungs(survey: Survey, resolution: int | None = None) -> list[Rung]:
    """The networks that may be chosen, from the cheapest on.

    Raises:
        UserError: too few images, or a resolution that no network here takes.
    """
    if survey.count < FEWEST_IMAGES:
        found = f"{survey.count:,} images are too few to learn from"
        raise UserError(f"{survey.path}: {found}: add images, at least {FEWEST_IMAGES}, better thousands")
    if resolution is not None and not 4 <= resolution <= LARGEST:
        remedy = "larger images are trained in latents (docs/latents.md)"
        raise UserError(f"--resolution {resolution} is not between 4 and {LARGEST} pixels: {remedy}")
    if resolution is None and survey.side > NATIVE:
        ladder = [Rung(side, *network) for side, networks in PHOTOS for network in networks if side <= survey.side]
    else:
        side = resolution or max(4, survey.side - survey.side % 4)
        ladder = [Rung(side, *network) for network in WIDTHS]
    # A large network learns a few images by heart.
    return [rung for rung in ladder if rung == ladder[0] or rung.enough <= PASSES * survey.count]


def levels_of(resolution: int) -> tuple[list[int], list[int]]:
    """Multipliers of the network's levels, and the resolution with attention: the first one of at most 8 pixels."""
    halvings = 1 if resolution <= 8 else 2 if resolution <= 32 else 3
    sides = [resolution]
    while len(sides) <= halvings and sides[-1] % 2 == 0 and sides[-1] > 4:
        sides.append(sides[-1] // 2)
    small = [side for side in sides[1:] or sides if side <= 8]
    return [1, *[2] * (len(sides) - 1)], small[:1]


def preset_of(rung: Rung) -> str:
    """The preset whose values are nearest."""
    return "digits-plain" if rung.resolution <= 8 else "cifar3" if rung.resolution <= 16 else "folder"


def images_of(survey: Survey) -> Images:
    return Images(survey.count - survey.held_out, survey.held_out, survey.classes, survey.read, survey.decode)


def evaluated(samples: int) -> int:
    """Samples of an evaluation, from those of a candidate of selection."""
    return min(5 * samples, 10_000)


def values(
    survey: Survey, path: str, rung: Rung, device: str, teacher: int = FEWEST, level: Measuring = LEVELS[-1],
    samples: int = LEVELS[-1].fewest, epochs: int = 3,
) -> Values:  # fmt: skip
    """The values that differ from the preset's.

    Args:
        path: what data.path is to say.
        device: cpu or cuda.
        teacher: images that the teacher sees.
        samples: of a candidate of selection.
        epochs: of the classifier.
    """
    multipliers, attention = levels_of(rung.resolution)
    batch, rate, student_rate = (64, 7.0e-3, 1.5e-3) if device == "cpu" else (256, 5.0e-3, 5.0e-4)
    wide = 64 if device != "cpu" else 32 if rung.resolution <= 16 else 16

    def count(images: int) -> int | str:
        images = max(batch, images - images % batch)
        return images if images % KI else f"{images // KI}Ki"

    half = {"decay": "cosine", "decay_from": count(teacher // 2)}
    late = {"decay": "cosine", "decay_from": count(teacher // 4)}
    lengths, t_mid = list(level.lengths), list(level.t_mid)
    columns = min(survey.classes, 10) or 10
    running = {} if device == "cpu" else {"runtime": {"compile": False}}
    return {
        **running,
        "data": {
            "source": survey.source, "path": path, "labels": survey.classes > 0, "resolution": rung.resolution,
            "channels": 3 if survey.colour else 1, "on_bad_image": "skip" if survey.unusable else "error",
            "held_out": SHARE if survey.held_out else 0.0,
        },
        "reference": {
            "classifier": {"width": wide, "features": 64 if rung.resolution <= 16 else 128, "epochs": epochs}
        },
        "network": {
            "width": rung.width, "multipliers": multipliers, "blocks": rung.blocks, "attention": attention,
            "channels_per_head": rung.width,
        },
        "teacher": {
            "images": count(teacher), "batch": batch, "precision": "auto", "dropout": 0.0,
            "lr": {"max": rate, "warmup": count(teacher // 20), **half},
        },
        "student": {
            "common": {
                "batch": batch, "precision": "auto",
                "lr": {"max": student_rate, "warmup": count(teacher // 40), **late},
                "tangent_warmup": count(teacher // 20),
            },
            "scd": {"images": count(teacher * 2 // 3), "dropout": 0.0},
            "sct": {"images": count(teacher // 3), "dropout": 0.0},
        },
        "select": {
            "sigma_rel": {"teacher": lengths, "student": lengths}, "t_mid": t_mid, "samples": samples,
            "progress": level.points,
        },
        "evaluate": {"samples": evaluated(samples), "grid_classes": columns},
    }  # fmt: skip


def params_of(
    survey: Survey, path: str, rung: Rung, device: str, presets: Mapping[str, Values], **budgets: Any
) -> Params:
    """All values of a rung; the arguments are as in `values` and `Chooser`."""
    own = values(survey, path, rung, device, **budgets)
    return Params.model_validate(laid_over(presets[preset_of(rung)], own))


class Chooser:
    """Weighs networks and budgets for one set of images on one machine.

    Args:
        path: what data.path is to say.
        presets: all values of each preset, with the user's own sections.
        asked: True if the user has named the resolution.
    """

    def __init__(
        self, survey: Survey, path: str, machine: Machine, presets: Mapping[str, Values], asked: bool = False
    ) -> None:
        self.survey, self.path, self.machine, self.presets, self.asked = survey, path, machine, presets, asked

    def params(self, rung: Rung, **budgets: Any) -> Params:
        """All values of a rung; rules that concern several of them are not checked here."""
        return params_of(self.survey, self.path, rung, self.machine.device, self.presets, **budgets)

    def budgets(self, rung: Rung, speeds: Speeds, minutes: float) -> dict[str, Any]:
        """The largest budgets that fit; `teacher` is below FEWEST if none does."""
        box, least = minutes * 60 * (1 - MARGIN), self.params(rung)
        found = predicted(least, images_of(self.survey), self.machine, speeds)
        # An epoch of the classifier, and an image of the teacher with its part of the students', cost always the same.
        epoch = self._of_reference(least, speeds, 4) - self._of_reference(least, speeds, 3)
        taught = self._of_reference(least, speeds, 3)
        epochs = 3 + max(0, min(17, int((TEACHING * box - taught) / max(epoch, 1e-9))))
        level, samples = self._measuring(least, speeds, MEASURING * box)
        smallest, most = self._measured(least, speeds), self._measured(least, speeds, LEVELS[0], MOST_SAMPLES)
        # The share for measuring counts in full, so that more minutes always leave more for the trainings.
        measuring = max(smallest, min(MEASURING * box, most)) - smallest
        left = box - total(found, self.machine) - measuring - (epochs - 3) * epoch
        each = TRAINING * (speeds.step[TEACHER] + 2 / 3 * speeds.step["scd"] + 1 / 3 * speeds.step["sct"])
        units = min(FEWEST + left / each, MOST) // UNIT
        return {"teacher": int(units) * UNIT, "level": level, "samples": samples, "epochs": epochs}

    def _of_reference(self, params: Params, speeds: Speeds, epochs: int) -> float:
        taught = params.reference.classifier.model_copy(update={"epochs": epochs})
        params = params.model_copy(update={"reference": params.reference.model_copy(update={"classifier": taught})})
        return predicted(params, images_of(self.survey), self.machine, speeds)["reference"] or 0.0

    def _measured(
        self, params: Params, speeds: Speeds, level: Measuring = LEVELS[-1], samples: int = LEVELS[-1].fewest
    ) -> float:
        """Seconds of selection and evaluation."""
        lengths = params.select.sigma_rel.model_copy(update={"teacher": level.lengths, "student": level.lengths})
        own = {"sigma_rel": lengths, "t_mid": level.t_mid, "samples": samples, "progress": level.points}
        more = {"samples": evaluated(samples)}
        sections = {"select": params.select.model_copy(update=own), "evaluate": params.evaluate.model_copy(update=more)}
        found = predicted(params.model_copy(update=sections), images_of(self.survey), self.machine, speeds)
        return sum(seconds or 0.0 for name, seconds in found.items() if name.startswith(("select", "evaluate")))

    def _measuring(self, params: Params, speeds: Speeds, share: float) -> tuple[Measuring, int]:
        """The most thorough measuring within so many seconds, and its samples."""
        for level in LEVELS:
            # Seconds grow a little faster than samples, so what fits is found from above.
            for samples in range(MOST_SAMPLES, level.fewest - 1, -256):
                if self._measured(params, speeds, level, samples) <= share:
                    return level, samples
        return LEVELS[-1], LEVELS[-1].fewest

    def suffices(self, rung: Rung, speeds: Speeds, minutes: float) -> bool:
        """True if a rung's teacher sees enough images in that time; then a larger one may do so as well."""
        return self.budgets(rung, speeds, minutes)["teacher"] >= rung.enough

    def choose(self, measured: Sequence[tuple[Rung, Speeds]], minutes: float) -> Plan:
        """The plan for that time.

        Args:
            measured: rungs from the cheapest on.

        Raises:
            UserError: the time is too short even for the cheapest.
        """
        (rung, speeds), budgets = measured[0], self.budgets(*measured[0], minutes)
        for other, its in measured[1:]:
            larger = self.budgets(other, its, minutes)
            if larger["teacher"] >= other.enough:
                rung, speeds, budgets = other, its, larger
        if budgets["teacher"] < FEWEST:
            needed = next(longer for longer in _longer(minutes) if self._fits(rung, speeds, longer))
            few = f"{FEWEST // KI}Ki images at {rung.resolution} pixels"
            raise UserError(f"{minutes:g} minutes are too few to train on {few}: give about {needed:,} minutes or more")
        own = values(self.survey, self.path, rung, self.machine.device, **budgets)
        params = self.params(rung, **budgets)
        seconds = predicted(params, images_of(self.survey), self.machine, speeds)
        reasons = list(self._reasons(rung, speeds, params))
        training = images_of(self.survey).training
        return Plan(preset_of(rung), own, params, reasons, seconds, total(seconds, self.machine), rung, training)

    def _fits(self, rung: Rung, speeds: Speeds, minutes: float) -> bool:
        return self.budgets(rung, speeds, minutes)["teacher"] >= FEWEST

    def _reasons(self, rung: Rung, speeds: Speeds, params: Params) -> Iterator[tuple[str, str]]:
        survey, machine, data = self.survey, self.machine, params.data
        kind = "in colour" if survey.colour else "grey"
        classes = f"in {survey.classes} classes" if survey.classes else "without classes"
        yield f"data: {data.source}, {data.path}", f"{survey.count:,} images {classes}"
        larger = f"the images have {survey.side}; larger ones take longer than this time allows"
        why = f"the images have {survey.side}" if survey.side < rung.resolution + 4 else larger
        yield f"data.resolution: {rung.resolution}", "as asked" if self.asked else why
        yield f"data.channels: {data.channels}", f"the {survey.looked} images that were looked at are {kind}"
        if survey.unusable:
            problem = f"{survey.unusable} of {survey.looked} images that were looked at cannot be used"
            yield "data.on_bad_image: skip", f"{problem}, and are left out"
        few = "too few images, or too few of a class, to hold some out"
        held = f"{survey.held_out:,} images that no training sees say whether samples are copies"
        yield f"data.held_out: {data.held_out:g}", held if survey.held_out else few
        network = f"width {rung.width}, multipliers {list(params.network.multipliers)}, blocks {rung.blocks}"
        largest = f"{speeds.parameters / 1e6:.2f} million weights, the largest whose teacher sees enough images in time"
        seen = f"{int(params.teacher.images):,} of {rung.enough:,}"
        least = f"{speeds.parameters / 1e6:.2f} million weights, the smallest here; it should see more images ({seen})"
        yield f"network: {network}", largest if params.teacher.images >= rung.enough else least
        yield f"precision: auto ({machine.precision})", f"what this {machine.device} has instructions for"
        again = params.teacher.images / max(1, survey.count - survey.held_out)
        budget = f"the time that is left beside the fixed work; each image is seen {again:.0f} times"
        if machine.device != "cpu":
            yield "runtime.compile: false", "compiling takes minutes in each training, and was not measured"
        yield f"teacher.images: {params.teacher.images.written}", budget
        both = ", ".join(f"{name} {params.student.method(name).images.written}" for name in params.student.methods)
        yield f"student: {both}", "two thirds and one third of the teacher's images"
        rate = params.teacher.lr
        yield (
            f"lr: {rate.max:g} and {params.student.common.lr.max:g}",
            ("the presets' for this batch; warm-ups of a twentieth, a cosine from the half on"),
        )
        lengths, times = len(params.select.sigma_rel.student), len(params.select.t_mid)
        tried = f"{lengths} averages and {times} times of the second step"
        share = f"selection and evaluation take at most about {MEASURING:.0%} of the time"
        yield f"select: {params.select.samples} samples of {tried}", share
        yield f"evaluate.samples: {params.evaluate.samples}", "five times as many, so that figures are less noisy"
        yield (
            f"reference.classifier.epochs: {params.reference.classifier.epochs}",
            (f"the classifier takes at most about {TEACHING:.0%} of the time"),
        )


def _longer(minutes: float) -> Iterator[int]:
    """Whole minutes, each about a tenth more than the one before."""
    while True:
        minutes = max(minutes * 1.1, minutes + 1)
        yield int(minutes)


def expectation(plan: Plan) -> list[str]:
    """What pictures to expect, in honest words, by the presets of which docs/results.md and docs/studies.md tell."""
    teacher, side = int(plan.params.teacher.images), plan.rung.resolution
    if side <= 8:
        known, needed = "the preset digits, whose samples look like digits at a glance,", 192 * KI
    elif side <= 16:
        known, needed = "the preset cifar3, whose samples show objects of the right colours and outlines,", 512 * KI
    else:
        known, needed = "the preset folder, which is sized for a GPU and was never trained here,", 8 * KI * KI
    share = teacher / needed
    words = (
        "expect samples of that quality, if the images are as simple" if share >= 0.8
        else "expect weaker samples: the digits with a third of their images were 4 to 5 times as far from the data"
        if share >= 0.25
        else "expect a first look: colours and rough shapes"
    )  # fmt: skip
    passes = teacher / max(1, plan.training)
    careful = f"It sees each image {passes:.0f} times: look at the share of copies in the report."
    told = f"The teacher sees {teacher:,} images, {share:.2g} times what {known} gives its own: {words}."
    return [told, *([careful] if passes > 2 * PASSES else [])]
