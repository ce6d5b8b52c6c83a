"""The schema of params.yaml: strict, frozen types without hidden defaults; only counts are converted.

The comments in params.yaml explain each key. A new key is one line there and one line here; `rules` refuses impossible
combinations of keys.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
"""Sections of params.yaml that affect no result: how to run, where to track and what to publish."""

LONGEST_NAME = 250
"""Characters of a name in MLflow's database."""
LATENT_REDUCTION = 8
"""An autoencoder turns a square of this many pixels on a side into one latent."""


def _grey_or_colour(channels: int) -> int:
    """Checks the channels; Literal[1, 3] would accept `true` as 1."""
    if channels not in (1, 3):
        raise PydanticCustomError("literal_error", "must be 1 or 3", {"expected": "1 or 3"})
    return channels


def registrable(name: str) -> bool:
    """True if MLflow takes the name for a registered model, finds it by a query, and by models:/NAME@ALIAS."""
    legible = name.isprintable() and 0 < len(name.strip()) <= len(name) <= LONGEST_NAME
    return legible and not name.startswith("..") and name != "." and not set(name) & set("/:?'")


def _registry_name(name: str) -> str:
    if not registrable(name) or re.search(r"[\"`\s]", name):
        expected = f"a name of at most {LONGEST_NAME} characters, without spaces, quotes, /, : and ?"
        raise PydanticCustomError("literal_error", "bad name", {"expected": expected})
    return name


RegistryName = Annotated[str, AfterValidator(_registry_name)]


class DataSettings(Section):
    source: Annotated[str, named_in("scm.data.sources")]
    path: Text
    labels: bool
    resolution: Whole
    channels: Annotated[int, AfterValidator(_grey_or_colour)]
    on_bad_image: Literal["error", "skip"]
    max_pixels: PositiveCount
    shard_images: PositiveCount
    held_out: Probability
    flip: bool


class CodecSettings(Section):
    name: Literal["identity", "sd_vae", "edm2_sd_vae", "tae"]
    path: Text | None
    sha256: Annotated[tuple[Sha256, ...], Items] | None
    channels: Whole
    precision: Literal["fp32", "bf16", "fp16"]
    stored: Literal["fp16", "fp32"]
    normalize: Literal["measured", "none", "paper"]


class ClassifierSection(Section):
    width: Whole
    features: Whole
    epochs: Whole
    batch: Whole
    lr: Positive
    held_out: Fraction


class ReferenceSettings(Section):
    extractor: Annotated[str, named_in("scm.evaluation.extractors")]
    weights: Text | None
    sha256: Sha256 | None
    statistics: Text | None
    statistics_sha256: Sha256 | None
    seed: Seed
    classifier: ClassifierSection


class NetworkSection(Section):
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
    patch: Whole


class TeacherSettings(Training):
    start: Text | None
    start_sha256: Sha256 | None
    images: PositiveCount
    dropout: Probability
    augment: Probability


class _Student(Section):
    methods: Annotated[dict[MethodName, Text], Field(min_length=1)]
    common: StudentCommon

    @property
    def declared(self) -> tuple[str, ...]:
        """Methods that have a block, whether or not `methods` switches them on."""
        return tuple(name for name in METHODS if getattr(self, name) is not None)

    def method(self, name: str) -> StudentSettings:
        return StudentSettings.of(self.common, getattr(self, name))

    def lineage(self, name: str) -> dict[str, Any]:
        """A student's settings, `start`, and, under its name, the lineage of the student that it starts from."""
        start = self.methods[name]
        own = {**self.method(name).values(), "start": start}
        return own if start == TEACHER else {**own, start: self.lineage(start)}


if TYPE_CHECKING:
    Student = _Student
else:
    Student = create_model(
        "Student", __base__=_Student, **{name: (methods.find(name).block | None, None) for name in METHODS}
    )
"""The section `student`: `methods`, `common`, and a block for each declared method."""


class Ema(Section):
    profiles: Annotated[tuple[SigmaRel, SigmaRel], Field(strict=False), Distinct]
    snapshots: Whole
    halflife: PositiveCount | None


class SamplerSettings(Section):
    sigma_min: Positive
    sigma_max: Positive
    rho: Positive
    teacher_steps: Annotated[int, Field(ge=2)]

    @property
    def noise_levels(self) -> tuple[float, float, float]:
        """sigma_min, sigma_max and rho, from which EDM's noise levels follow."""
        return self.sigma_min, self.sigma_max, self.rho


class Lengths(Section):
    """Candidate lengths of the average, by kind of model."""

    teacher: Annotated[tuple[SigmaRel, ...], Items, Distinct]
    student: Annotated[tuple[SigmaRel, ...], Items, Distinct]


class Scales(Section):
    """Candidate guidance scales, by kind of model; 1 = no guidance."""

    teacher: Annotated[tuple[Scale, ...], Items, Distinct]
    student: Annotated[tuple[Scale, ...], Items, Distinct]


class Select(Section):
    sigma_rel: Lengths
    guidance: Scales
    guide: Text | None
    guide_sha256: Sha256 | None
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
    flow_map_steps: Annotated[tuple[Whole, ...], Items, Distinct]
    neighbours: Whole
    grid_rows: Whole
    grid_classes: Whole


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    threads: Whole | None
    processes: Whole
    launcher: Text | None
    micro_batch: Literal["auto"] | Whole
    checkpointing: Literal["auto", "none", "blocks"]
    shard: Literal["auto", "none", "optimizer", "full"]
    compile: Literal["auto"] | bool
    log_every: PositiveCount
    checkpoint_every: PositiveCount | None
    checkpoint_minutes: Positive | None

    @property
    def images_at_once(self) -> int | None:
        """Images that a process trains on at a time, at most; None = as many as its GPU's memory holds."""
        return None if self.micro_batch == "auto" else self.micro_batch

    def divides_state(self, device: str) -> bool:
        """True if several processes on a `device` (cpu, cuda) divide the optimiser's state and the averages."""
        return self.shard == "optimizer" or (self.shard == "auto" and device == "cuda")


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
    data: DataSettings
    codec: CodecSettings
    reference: ReferenceSettings
    network: NetworkSection
    teacher: TeacherSettings
    student: Student
    ema: Ema
    sampler: SamplerSettings
    select: Select
    evaluate: Evaluate
    runtime: Runtime
    mlflow: Mlflow
    publish: Publish

    @property
    def registered_name(self) -> str:
        """The registered model's name in MLflow."""
        return self.publish.name or self.preset

    @property
    def shape(self) -> list[int]:
        """[C, R, R] of the networks' training samples: pixels, or the autoencoder's latents."""
        if self.codec.name == "identity":
            return [self.data.channels, self.data.resolution, self.data.resolution]
        side = self.data.resolution // LATENT_REDUCTION
        return [self.codec.channels, side, side]
