"""What was measured of a machine: plain values, which need no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

CPU_CLOCK = "--cpu-clock"
"""Has everything measured in seconds of CPU, over all threads, which other work on the machine does not change."""


@dataclass(frozen=True)
class Machine:
    """Seconds that do not depend on the network.

    Attributes:
        device: cpu or cuda.
        precision: what `precision: auto` stands for here.
        threads: that read images side by side.
        start: of a process until torch and the project are imported.
        learn: of the classifier's training, for one image; None = another extractor, or it was not measured.
        features: of one image's features; None likewise.
        compare: of the distance between two images' features.
    """

    device: str
    precision: str
    threads: int
    start: float
    learn: float | None
    features: float | None
    compare: float


@dataclass(frozen=True)
class Speeds:
    """Seconds that depend on the network; a training that is missing was not measured.

    Attributes:
        step: of a training step, for one of its images, by training: teacher, scd, ...
        snapshot: of what is measured at each snapshot, by training.
        evaluation: of one evaluation of the network for one image that is drawn.
        draw: of one drawn image, beside the evaluations.
        parameters: number of the network's weights.
    """

    step: Mapping[str, float]
    snapshot: Mapping[str, float]
    evaluation: float
    draw: float
    parameters: int
