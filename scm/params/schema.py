"""params.yaml as strict, frozen types: nothing is coerced (but counts) and nothing has a hidden default.

What a value means stands beside it in params.yaml. A new key is one line there and one line here; what two keys may not
say together is in `rules`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model
from pydantic_core import PydanticCustomError

from scm import methods
from scm.base.count import Count
from scm.base.project import TEACHER
from scm.base.sections import (
    Distinct,
    Fraction,
    Items,
    Positive,
    PositiveCount,
    Probability,
    Scale,
    Section,
    Seed,
    Sha256,
    SigmaRel,
    Text,
    Whole,
    named_in,
)
from scm.methods import MethodName, StudentCommon, StudentSettings, Training

METHODS = methods.names()
USERS_SECTIONS = ("runtime", "mlflow", "publish")
"""Sections of params.yaml that say how to run, where to show and what to publish: no result follows from them."""

LATENT_REDUCTION = 8
"""Pixels on a side of the square that each of an autoencoder's latents stands for."""


def _grey_or_colour(channels: int) -> int:
    """Not a Literal[1, 3]: that takes `true` for 1."""
    if channels not in (1, 3):
        raise PydanticCustomError("literal_error", "must be 1 or 3", {"expected": "1 or 3"})
    return channels


def _registry_name(name: str) -> str:
    if not re.fullmatch(r"[^/:'\"`\s]+", name):
        raise PydanticCustomError("literal_error", "bad name", {"expected": "a name without spaces, quotes, / and :"})
    return name


RegistryName = Annotated[str, AfterValidator(_registry_name)]


class Data(Section):
    source: Annotated[str, named_in("scm.data.sources")]
    path: Text
    labels: bool
    resolution: Whole
    channels: Annotated[int, AfterValidator(_grey_or_colour)]
    on_bad_image: Literal["error", "skip"]
    max_pixels: PositiveCount
    shard_images: PositiveCount


class Codec(Section):
    name: Literal["identity", "sd_vae", "edm2_sd_vae", "tae"]
    path: Text | None
    sha256: Annotated[tuple[Sha256, ...], Items] | None
    channels: Whole
    precision: Literal["fp32", "bf16", "fp16"]
    stored: Literal["fp16", "fp32"]
    normalize: Literal["measured", "none", "paper"]


class Classifier(Section):
    width: Whole
    features: Whole
    epochs: Whole
    batch: Whole
    lr: Positive
    held_out: Fraction


class Reference(Section):
    extractor: Annotated[str, named_in("scm.evaluation.extractors")]
    weights: Text | None
    sha256: Sha256 | None
    statistics: Text | None
    statistics_sha256: Sha256 | None
    classifier: Classifier


class Network(Section):
    architecture: Annotated[str, named_in("scm.params.architectures")]
    sigma_d: Positive
    width: Whole
    multipliers: Annotated[tuple[Whole, ...], Items]
    blocks: Whole
    attention: Annotated[tuple[Whole, ...], Field(strict=False), Distinct]
    channels_per_head: Whole
    modulation: Text
    embedding: Literal["positional", "fourier"]
    fourier_scale: Positive
    c_noise: Literal["t", "log_sigma"]

    def resolutions(self, resolution: int) -> dict[int, int]:
        """Channels at each resolution of the U-Net whose input has `resolution` pixels."""
        return {resolution >> level: self.width * factor for level, factor in enumerate(self.multipliers)}


class Teacher(Training):
    images: PositiveCount
    dropout: Probability


class _Student(Section):
    methods: Annotated[dict[MethodName, Text], Field(min_length=1)]
    common: StudentCommon

    @property
    def declared(self) -> tuple[str, ...]:
        """Methods that have a block, switched on or not."""
        return tuple(name for name in METHODS if getattr(self, name) is not None)

    def method(self, name: str) -> StudentSettings:
        """The settings of one of `declared`."""
        return StudentSettings.of(self.common, getattr(self, name))

    def lineage(self, name: str) -> dict[str, Any]:
        """A student's settings, `start`, and under its name those of the student that it starts from."""
        start = self.methods[name]
        own = {**self.method(name).values(), "start": start}
        return own if start == TEACHER else {**own, start: self.lineage(start)}


_blocks: dict[str, Any] = {name: (methods.find(name).block | None, None) for name in METHODS}
Student = create_model("Student", __base__=_Student, **_blocks)
"""The section `student`: `methods`, `common`, and a block for each method that is declared."""


class Ema(Section):
    profiles: Annotated[tuple[SigmaRel, SigmaRel], Field(strict=False), Distinct]
    snapshots: Whole
    halflife: PositiveCount | None


class Sampler(Section):
    sigma_min: Positive
    sigma_max: Positive
    rho: Positive
    teacher_steps: Annotated[int, Field(ge=2)]

    @property
    def noise_levels(self) -> tuple[float, float, float]:
        """sigma_min, sigma_max and rho: EDM's noise levels but for their number."""
        return self.sigma_min, self.sigma_max, self.rho


class Lengths(Section):
    """Candidates for the length of the average, by the kind of model."""

    teacher: Annotated[tuple[SigmaRel, ...], Items, Distinct]
    student: Annotated[tuple[SigmaRel, ...], Items, Distinct]


class Scales(Section):
    """Candidates for the guidance scale, by the kind of model; 1 = without guidance."""

    teacher: Annotated[tuple[Scale, ...], Items, Distinct]
    student: Annotated[tuple[Scale, ...], Items, Distinct]


class Select(Section):
    sigma_rel: Lengths
    guidance: Scales
    t_mid: Annotated[tuple[Positive, ...], Items, Distinct]
    refine: Annotated[int, Field(ge=0)]
    coarse: Annotated[Count, Field(ge=2)] | None
    samples: Annotated[Count, Field(ge=2)]
    progress: Whole


class Evaluate(Section):
    models: Annotated[tuple[Text, ...], Items]
    samples: Annotated[Count, Field(ge=2)]
    repeats: Whole
    batch: Whole
    seed: Seed
    teacher_few_steps: Whole
    teacher_few_spacing: Literal["edm", "uniform"]
    neighbours: Whole
    grid_rows: Whole
    grid_classes: Whole


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    threads: Whole | None
    processes: Whole
    compile: bool
    log_every: PositiveCount
    checkpoint_every: PositiveCount


class Mlflow(Section):
    enabled: bool
    uri: Text | None
    experiment: Text | None


class Publish(Section):
    name: RegistryName | None
    model: Text
    evaluations: Whole | None
    allowed: Scale
    deviations: Scale


class Params(Section):
    """Every value of params.yaml."""

    preset: Text
    seed: Seed
    data: Data
    codec: Codec
    reference: Reference
    network: Network
    teacher: Teacher
    student: Student
    ema: Ema
    sampler: Sampler
    select: Select
    evaluate: Evaluate
    runtime: Runtime
    mlflow: Mlflow
    publish: Publish

    @property
    def registered_name(self) -> str:
        """Name of the registered model in MLflow."""
        return self.publish.name or self.preset

    @property
    def shape(self) -> list[int]:
        """[C, R, R] of what the networks are trained on: pixels, or the autoencoder's latents."""
        data = self.data
        if self.codec.name == "identity":
            return [data.channels, data.resolution, data.resolution]
        return [self.codec.channels, data.resolution // LATENT_REDUCTION, data.resolution // LATENT_REDUCTION]
