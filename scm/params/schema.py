"""params.yaml as strict, frozen types: nothing is coerced (but counts) and nothing has a hidden default.

What a value means stands beside it in params.yaml. A new key is one line there and one line here; what two keys may not
say together is in `rules`.
"""

import copy
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from scm.base.project import TEACHER
from scm.params.count import Count

Method = Literal["scd", "sct", "discrete", "multistep", "scd_vsd", "vsd"]
METHODS: tuple[str, ...] = get_args(Method)
USERS_SECTIONS = ("runtime", "mlflow", "publish")
"""Sections of params.yaml that say how to run, where to show and what to publish: no result follows from them."""
TWO_STEPS = ("scd", "sct", "discrete", "scd_vsd")
"""Methods that are sampled in two steps as well as in one; vsd knows one time only, and multistep has its segments."""

Whole = Annotated[int, Field(ge=1)]
PositiveCount = Annotated[Count, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Scale = Annotated[Finite, Field(ge=0)]
Probability = Annotated[Finite, Field(ge=0, lt=1)]
Fraction = Annotated[Finite, Field(gt=0, lt=1)]
Text = Annotated[str, Field(pattern=r"\S")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MAX_SIGMA_REL = 12**-0.5
"""Relative width of a power-function average with exponent 0, the widest there is (EDM2, eq. 122): about 0.2887."""
SigmaRel = Annotated[Finite, Field(gt=0, lt=MAX_SIGMA_REL)]

LATENT_REDUCTION = 8
"""Pixels on a side of the square that each of an autoencoder's latents stands for."""


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not name anything twice")
    return values


def _registry_name(name: str) -> str:
    if not re.fullmatch(r"[^/:'\"`\s]+", name):
        raise PydanticCustomError("literal_error", "bad name", {"expected": "a name without spaces, quotes, / and :"})
    return name


def _ascending(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("must name the smaller one first")
    return scales


def _grey_or_colour(channels: int) -> int:
    """Not a Literal[1, 3]: that takes `true` for 1."""
    if channels not in (1, 3):
        raise PydanticCustomError("literal_error", "must be 1 or 3", {"expected": "1 or 3"})
    return channels


RegistryName = Annotated[str, AfterValidator(_registry_name)]
Items = Field(strict=False, min_length=1)
"""Of tuple fields: YAML has lists only."""
Distinct = AfterValidator(_distinct)


class Section(BaseModel):
    """A mapping of params.yaml."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Data(Section):
    source: Literal["digits", "folder", "cifar10", "imagenet", "webdataset"]
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
    extractor: Literal["classifier", "inception", "dinov2", "exported"]
    weights: Text | None
    sha256: Sha256 | None
    statistics: Text | None
    statistics_sha256: Sha256 | None
    classifier: Classifier


class Network(Section):
    architecture: Literal["edm2", "ddpmpp"]
    sigma_d: Positive
    width: Whole
    multipliers: Annotated[tuple[Whole, ...], Items]
    blocks: Whole
    attention: Annotated[tuple[Whole, ...], Field(strict=False), Distinct]
    channels_per_head: Whole
    modulation: Literal["double_norm", "gain", "scale_shift", "add"]
    embedding: Literal["positional", "fourier"]
    fourier_scale: Positive
    c_noise: Literal["t", "log_sigma"]

    def resolutions(self, resolution: int) -> dict[int, int]:
        """Channels at each resolution of the U-Net whose input has `resolution` pixels."""
        return {resolution >> level: self.width * factor for level, factor in enumerate(self.multipliers)}


class Optimizer(Section):
    name: Literal["adam", "radam"]
    betas: Annotated[tuple[Probability, Probability], Field(strict=False)]
    eps: Positive


class LearningRate(Section):
    max: Positive
    warmup: Count
    decay: Literal["constant", "inverse_sqrt", "cosine"]
    decay_from: Count


class Training(Section):
    """What every training stage is told."""

    batch: Whole
    precision: Literal["fp32", "bf16", "fp16"]
    p_mean: Finite
    p_std: Positive
    optimizer: Optimizer
    lr: LearningRate
    dropout_max_resolution: Whole
    label_dropout: Probability


class Teacher(Training):
    images: PositiveCount
    dropout: Probability


class StudentCommon(Training):
    tangent: Literal["normalized", "clipped", "raw"]
    tangent_norm_c: Positive
    tangent_warmup: Count
    adaptive_weighting: bool


def _optional(model: type[Section]) -> dict[str, Any]:
    """The model's fields with the default None, which is never validated: absent is allowed, null is not."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        field = copy.copy(field)
        field.default = None
        fields[name] = (field.annotation, field)
    return fields


_Overrides: type[Section] = create_model("_Overrides", __base__=Section, **_optional(StudentCommon))


class MethodBlock(_Overrides):
    """A method's own block: its budget, and any key of `student.common` that it wants otherwise."""

    images: PositiveCount
    dropout: Probability


class GuidedBlock(MethodBlock):
    """Of a method whose teacher may be guided with a scale s ~ U[low, high]; without `guidance` it is not."""

    guidance: Annotated[tuple[Scale, Scale], Field(strict=False), AfterValidator(_ascending)] | None = None


class DiscreteBlock(GuidedBlock):
    points: Annotated[int, Field(ge=2)]


class MultistepBlock(GuidedBlock):
    segments: Whole


class Vsd(Section):
    weight: Positive
    p_mean: Finite
    p_std: Positive


class FakeScore(Section):
    lr_max: Positive
    dropout: Probability
    p_mean: Finite
    p_std: Positive
    updates: Whole


class VsdBlock(GuidedBlock):
    vsd: Vsd
    fake_score: FakeScore


class StudentMethod(StudentCommon):
    """All settings of one method: the common ones, overridden by the method's own block; None = not of this method."""

    images: PositiveCount
    dropout: Probability
    guidance: tuple[float, float] | None = None
    points: int | None = None
    segments: int | None = None
    vsd: Vsd | None = None
    fake_score: FakeScore | None = None


class Student(Section):
    methods: Annotated[dict[Method, Text], Field(min_length=1)]
    common: StudentCommon
    scd: GuidedBlock | None = None
    sct: MethodBlock | None = None
    discrete: DiscreteBlock | None = None
    multistep: MultistepBlock | None = None
    scd_vsd: VsdBlock | None = None
    vsd: VsdBlock | None = None

    @property
    def declared(self) -> tuple[str, ...]:
        """Methods that have a block, switched on or not."""
        return tuple(method for method in METHODS if getattr(self, method) is not None)

    def method(self, name: str) -> StudentMethod:
        """The settings of one of `declared`."""
        block: MethodBlock = getattr(self, name)
        overrides = {key: getattr(block, key) for key in block.model_fields_set}
        return StudentMethod.model_validate({**dict(self.common), **overrides})

    def lineage(self, name: str) -> dict[str, Any]:
        """A student's settings, `start`, and under its name those of the student that it starts from."""
        start = self.methods[name]  # type: ignore[index]
        own = {**self.method(name).model_dump(), "start": start}
        return own if start == TEACHER else {**own, start: self.lineage(start)}


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
