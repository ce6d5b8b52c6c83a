"""Diagnoses a run from its lines of metrics alone: what is wrong, where, and what to try.

The diagnosis looks for five problems: a gradient far above its recent size; a tangent that jumps or is too large at
some t, and which of its two terms causes it (fig. 4); differences that drown in rounding (fig. 5c); samples that move
away from the data; and steps that were not finite. Each problem is reported once, at the first line that shows it. The
limits leave healthy runs alone: on the digits, healthy gradients keep their recent size and healthy tangents stay
below 0.8 times a sample's length. Runs that fall apart reach 3 to 7 times that length; Fourier features of scale 16
make the second term 3 to 4.5 times as long.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from scm.training.health import BINS, NONFINITE

WINDOW, FEWEST = 16, 4
"""A line's figures are compared with at most WINDOW earlier lines, if there are at least FEWEST."""
GRADIENT_SPIKE = 5.0
"""A gradient is reported above this multiple of the median maximum of earlier lines."""
TANGENT_SPIKE = 5.0
"""A jump is reported above this multiple of the bin's median after the warm-up, if also longer than a sample."""
TANGENT_LARGE = 2.0
"""A tangent is reported above this multiple of a sample's length, sigma_d sqrt(D). Healthy ones stay below 1."""
ROUNDING = 0.1
"""A difference's rounding error is reported above this fraction of a sample's length."""
RISEN, RISEN_OF_FIRST = 2.0, 0.1
"""Samples have moved away at this multiple of the best distance, and this fraction of the first one above the best."""
RISEN_PROBES = 2
"""So many probes in a row must show it."""
SMALL_SCALE = 16.0
"""Below this loss scale float16 loses small gradients."""
MOST_REMEDIES = 3

GENERATOR = "fake_sample_norm"
"""The generator's sample before noise is added: the one figure that does not depend on its part's times."""
FIGURES = {
    "output_norm": "the network's output",
    GENERATOR: "the generator's sample",
    "tangent_term1": "the tangent's first term",
    "tangent_term2": "the tangent's second term, which carries dF/dt,",
    "tangent_norm": "the tangent",
    "squared_error": "the squared error",
    "difference": "the difference between the two scores",
    "log_weight": "the adaptive weight",
    "loss": "the loss",
}
"""Figures in the order of computation, so the first that is not finite is the origin."""
PARTS = {
    "": "sCM",
    "anchor": "the anchor",
    "fake": "the fake score",
    "vsd": "VSD",
    "gan": "the GAN term",
    "discriminator": "the discriminator",
}
"""The parts of a loss in the same order: the prefix of their figures, and their names."""


@dataclass(frozen=True)
class Context:
    """The settings that remedies depend on; None = unknown, or this kind of run does not have the setting.

    Attributes:
        block: section of the run's settings in params.yaml: teacher or student.common.
        places: full names of the settings in other sections, by first key; None = the setting has no effect on this
            run. The fake score's settings are under `fake_score`, score distillation's under `vsd`, and those of both
            players under `gan`.
        tangent: normalized, clipped or raw.
        tangent_warmup: images.
        fake_lr_max: learning rate of the fake score.
        vsd_weight: lambda of L_VSD.
        discriminator_lr_max: learning rate of the discriminator.
        gan_weight: lambda of L_GAN.
        data_norm: length of a sample, sigma_d sqrt(D).
        stage: images after which the loss changes, and with it the size of a healthy gradient.
        growth: factor by which this size grows from stage to stage.
    """

    block: str = "student.common"
    places: Mapping[str, str | None] = field(default_factory=dict)
    tangent: str | None = None
    tangent_norm_c: float | None = None
    tangent_warmup: int | None = None
    lr_max: float | None = None
    fake_lr_max: float | None = None
    vsd_weight: float | None = None
    discriminator_lr_max: float | None = None
    gan_weight: float | None = None
    embedding: str | None = None
    fourier_scale: float | None = None
    c_noise: str | None = None
    precision: str | None = None
    data_norm: float | None = None
    stage: int | None = None
    growth: float = 1.0


@dataclass(frozen=True)
class Finding:
    """One problem of a run.

    Attributes:
        kind: gradient, tangent, rounding, samples, nonfinite or scale.
        images: images seen when it first showed.
        what: the problem in words.
        remedies: what to try, likeliest first.
        figure: the figure that shows it.
        bins: bins of t with the problem, eighths of [0, pi/2]; empty = not tied to certain times.
    """

    kind: str
    images: int
    what: str
    remedies: tuple[str, ...]
    figure: str
    bins: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}, from {self.images:,} images on: {', or '.join(self.remedies)}"


class Diagnosis:
    """Reads the lines of metrics.jsonl one by one; a line's cost does not grow with the run.

    Attributes:
        findings: the findings so far, in order.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.findings: list[Finding] = []
        self._known: set[tuple[str, str, int]] = set()
        self._recent: dict[str, deque[float]] = {}
        self._skipped = 0
        self._first_distance = self._best_distance = math.inf
        self._risen = 0
        self._stage = 0

    def add(self, line: Mapping[str, Any]) -> list[Finding]:
        """Reads the next line; returns its new findings."""
        found = [*self._nonfinite(line), *self._tangent(line), *self._rounding(line)]
        found += [*self._gradient(line), *self._samples(line)]
        self.findings += found
        return found

    def summary(self) -> str:
        """All findings in one line, non-finite steps first; general remedies if nothing was found."""
        ordered = sorted(self.findings, key=lambda finding: finding.kind != "nonfinite")
        return "; ".join(map(str, ordered)) or ", or ".join(self._remedies())

    def _nonfinite(self, line: Mapping[str, Any]) -> list[Finding]:
        """Finds samples left out and skipped steps, but not those that only lowered the loss scale: it starts large."""
        skipped, self._skipped = line.get("skipped", 0) - self._skipped, line.get("skipped", 0)
        broken: dict[str, list[int]] = {}
        for key in line:
            if key.startswith(f"{NONFINITE}/"):
                _, figure, k = key.split("/")
                broken.setdefault(figure, []).append(int(k))
        scale = line.get("loss_scale")
        steps = f"{skipped} step{'' if skipped == 1 else 's'} skipped" if skipped else "samples left out"
        found = []
        if broken:
            figure = min(broken, key=_order)
            new = self._new("nonfinite", figure, [-1] if figure == GENERATOR else sorted(broken[figure]))
            bins = tuple(k for k in new if k >= 0)
            what = f"{steps}: {self._named(figure)} was not finite"
            what += f" at {_times(bins)}" if bins else ""
            remedies = self._remedies(figure, bins)
            found += [Finding("nonfinite", line["images"], what, remedies, figure, bins)] if new else []
        elif skipped and (scale is None or scale <= 1) and self._new("nonfinite", "grad_norm", [-1]):
            what = f"{steps}: the gradient was not finite, though the loss was"
            found.append(Finding("nonfinite", line["images"], what, self._remedies(), "grad_norm"))
        if scale is not None and scale < SMALL_SCALE and self._new("scale", "loss_scale", [-1]):
            what = f"the loss scale fell to {scale:g}, so that float16 loses small gradients"
            remedies = self._change("set", "precision", to="bf16 or fp32")
            found.append(Finding("scale", line["images"], what, tuple(remedies), "loss_scale"))
        return found

    def _tangent(self, line: Mapping[str, Any]) -> list[Finding]:
        """Finds bins in which the tangent is too large or jumped; one finding for each term that causes it."""
        length = self.context.data_norm or math.inf
        large: dict[tuple[str, str], dict[int, float]] = {}
        for k in range(BINS):
            value = line.get(f"tangent_norm/{k}")
            if value is None:
                continue
            usual = self._usual(f"tangent_norm/{k}", value, line["images"] > (self.context.tangent_warmup or 0))
            terms = [f"tangent_term{number}" for number in (1, 2)]
            term = max(terms, key=lambda name: line.get(f"{name}/{k}", 0.0))
            if value > TANGENT_LARGE * length:
                large.setdefault((term, "level"), {})[k] = value / length
            elif usual is not None and value > max(TANGENT_SPIKE * usual, length):
                large.setdefault((term, "spike"), {})[k] = value / usual
        found = []
        for (term, kind), ratios in large.items():
            bins = self._new("tangent", term, sorted(ratios))
            if bins:
                most = max(ratios[k] for k in bins)
                than = "a sample" if kind == "level" else "it was before"
                what = f"{self._named(term)} is up to {most:.3g} times as long as {than} at {_times(bins)}"
                found.append(
                    Finding("tangent", line["images"], what, self._remedies(term, bins, overflow=False), term, bins)
                )
        return found

    def _rounding(self, line: Mapping[str, Any]) -> list[Finding]:
        """Finds bins in which the difference between two points of a grid is mostly rounding."""
        length = self.context.data_norm or math.inf
        errors = {k: line.get(f"rounding/{k}", 0.0) / length for k in range(BINS)}
        bins = self._new("rounding", "rounding", [k for k, error in errors.items() if error > ROUNDING])
        if not bins:
            return []
        most = max(errors[k] for k in bins)
        what = f"in {self.context.precision}, the rounding error of the tangent's difference is up to {most:.2g} times "
        what += f"as long as a sample at {_times(bins)}"
        half = self._change("set", "precision", to="fp32") if self.context.precision != "fp32" else []
        return [Finding("rounding", line["images"], what, (*half, *self._change("lower", "points")), "rounding", bins)]

    def _gradient(self, line: Mapping[str, Any]) -> list[Finding]:
        """Finds a gradient far above its recent size, which grows with each stage of the training."""
        stage = (line["images"] - 1) // self.context.stage if self.context.stage else 0
        grown, self._stage = self.context.growth ** (stage - self._stage), stage
        recent = self._recent.get("grad_norm_max", ())
        self._recent["grad_norm_max"] = deque((value * grown for value in recent), maxlen=WINDOW)
        value = line.get("grad_norm_max")
        usual = None if value is None else self._usual("grad_norm_max", value)
        if value is None or usual is None or value <= GRADIENT_SPIKE * usual:
            return []
        if not self._new("gradient", "grad_norm_max", [-1]):
            return []
        what = f"the gradient's norm rose to {value:.3g}, {value / usual:.3g} times what it was before"
        return [Finding("gradient", line["images"], what, self._remedies(), "grad_norm_max")]

    def _samples(self, line: Mapping[str, Any]) -> list[Finding]:
        """Finds samples that moved away from the data in several probes in a row; not finite counts as far away."""
        value = line.get("sample_fd")
        if value is None:
            return []
        finite = math.isfinite(value)
        if finite and math.isinf(self._first_distance):
            self._first_distance = value
        limit = max(RISEN * self._best_distance, self._best_distance + RISEN_OF_FIRST * self._first_distance)
        self._risen = self._risen + 1 if value > limit or not finite else 0
        if finite:
            self._best_distance = min(self._best_distance, value)
        if self._risen < RISEN_PROBES or not self._new("samples", "sample_fd", [-1]):
            return []
        what = f"samples move away from the data: their distance is {value:.3g} and was {self._best_distance:.3g}"
        if math.isinf(self._best_distance):
            what = f"samples are not finite: their distance from the data is {value:.3g}"
        return [Finding("samples", line["images"], what, self._remedies(), "sample_fd")]

    def _usual(self, name: str, value: float, counts: bool = True) -> float | None:
        """Median of the figure's earlier values, None if they are too few. Remembers `value` if it counts."""
        recent = self._recent.setdefault(name, deque(maxlen=WINDOW))
        usual = median(recent) if len(recent) >= FEWEST else None
        if counts and math.isfinite(value):
            recent.append(value)
        return usual

    def _new(self, kind: str, figure: str, bins: Sequence[int]) -> tuple[int, ...]:
        """The bins for which this problem is new; marks them as reported."""
        new = tuple(k for k in bins if (kind, figure, k) not in self._known)
        self._known |= {(kind, figure, k) for k in new}
        return new

    def _remedies(
        self, figure: str | None = None, bins: Sequence[int] = (), *, overflow: bool = True
    ) -> tuple[str, ...]:
        """What to try, likeliest first.

        Args:
            figure: the figure where the problem began; None = unknown.
            bins: bins of t with the problem.
            overflow: True if the cause may be numbers too large for the type.
        """
        context, remedies = self.context, []
        part = _split(figure or "")[0]
        if figure in ("tangent_term2", "tangent_norm"):
            if context.embedding == "fourier":
                scale = "" if context.fourier_scale is None else f" (fourier_scale is {context.fourier_scale:g})"
                remedies.append(f"set network.embedding: positional{scale}")
            if context.c_noise == "log_sigma":
                remedies.append("set network.c_noise: t")
        if context.precision == "fp16" and overflow:
            remedies += self._change("set", "precision", to="bf16 or fp32")
        if not part and context.tangent in ("raw", "clipped"):
            remedies += self._change("set", "tangent", to="normalized")
        if bins and set(bins) <= {0, BINS - 1} and not remedies:
            verb, name = ({0: "raise", BINS - 1: "lower"}[bins[0]], "p_mean") if len(bins) == 1 else ("lower", "p_std")
            section = {"": "", "anchor": "", "fake": "fake_score.", "vsd": "vsd."}.get(part, "gan.")
            remedies += self._change(verb, section + name)
        return tuple([*remedies, *self._slower(figure, part)][:MOST_REMEDIES])

    def _slower(self, figure: str | None, part: str) -> list[str]:
        """The general remedies: smaller or later updates of the network that this part of the loss trains."""
        context, remedies = self.context, []
        if part == "vsd":
            remedies += self._change("lower", "vsd.weight", context.vsd_weight)
        if part == "gan":
            remedies += self._change("lower", "gan.weight", context.gan_weight)
        if part not in ("fake", "discriminator"):
            remedies += self._change("lower", "lr.max", context.lr_max)
        if part == "discriminator" or (figure is None and context.discriminator_lr_max is not None):
            remedies += self._change("lower", "gan.lr_max", context.discriminator_lr_max)
        if part == "fake" or (figure is None and context.fake_lr_max is not None):
            remedies += self._change("lower", "fake_score.lr_max", context.fake_lr_max)
        if not part and context.tangent_warmup is not None and figure != "tangent_term1":
            remedies += self._change("lengthen", "tangent_warmup", context.tangent_warmup)
        if not part and context.tangent == "normalized":
            remedies += self._change("raise", "tangent_norm_c", context.tangent_norm_c)
        return remedies + self._change("lengthen", "lr.warmup")

    def _change(self, verb: str, setting: str, value: float | None = None, *, to: str | None = None) -> list[str]:
        """Advice to change a setting from `value`, or `to` another; none if the setting has no effect."""
        first, *rest = setting.split(".")
        place = self.context.places.get(first, f"{self.context.block}.{first}")
        if place is None:
            return []
        ending = "" if value is None else f" (it is {value:,g})"
        return [f"{verb} {'.'.join([place, *rest])}{'' if to is None else f': {to}'}{ending}"]

    def _named(self, figure: str) -> str:
        """A figure in words, with its loss if the run has several."""
        part, name = _split(figure)
        context = self.context
        beside = context.fake_lr_max is not None or context.discriminator_lr_max is not None
        several = beside and context.tangent is not None and name in ("loss", "log_weight")
        return FIGURES.get(name, name) + (f" of {PARTS[part]}" if part or several else "")


def _split(figure: str) -> tuple[str, str]:
    """A figure's part and its name within the part; the loss's own figures have the part ""."""
    part, _, name = figure.partition("_")
    return (part, name) if part in PARTS and figure not in FIGURES else ("", figure)


def _order(figure: str) -> tuple[bool, int, int, str]:
    """Sort key by order of computation; the loss comes last, as it sums all parts."""
    (part, name), parts, names = _split(figure), list(PARTS), list(FIGURES)
    place = names.index(name) if name in FIGURES else len(names)
    return (figure == "loss", parts.index("fake" if figure == GENERATOR else part), place, figure)


def _times(bins: Sequence[int]) -> str:
    """Bins as ranges of t: "t 0.00-0.20 and 1.18-1.57"."""
    ranges: list[list[int]] = []
    for k in sorted(bins):
        if ranges and ranges[-1][1] == k:
            ranges[-1][1] = k + 1
        else:
            ranges.append([k, k + 1])
    width = math.pi / 2 / BINS
    return "t " + " and ".join(f"{first * width:.2f}-{last * width:.2f}" for first, last in ranges)
