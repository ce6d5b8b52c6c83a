"""The settings that determine a network."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Embedding = Literal["positional", "fourier"]
NoiseInput = Literal["t", "log_sigma"]
LogWeight = Literal["linear", "edm2"]


@dataclass(frozen=True)
class NetworkSettings:
    """Everything that determines a network but its weights; stored in each checkpoint's header.

    Attributes:
        resolution: pixels of a (latent) image; each level after the first halves it.
        channels: channels of a (latent) image.
        classes: number of classes; 0 = unconditional.
        architecture: name of a file in scm/networks/architectures.
        width: channels at the highest resolution.
        multipliers: channels of each level as multiples of `width`.
        blocks: residual blocks a level; the decoder has one more.
        attention: resolutions with self-attention.
        channels_per_head: channels of an attention head.
        modulation: how the embedding acts on a block: `double_norm` (the paper's), or another that the architecture
            has.
        embedding: how c_noise is embedded: `positional` (the paper's) or `fourier` (EDM2's).
        fourier_scale: bandwidth of the Fourier features.
        c_noise: the time as F receives it: `t` (the paper's) or `log_sigma`, ln(sigma_d tan t) / 4 (EDM's).
        sigma_d: standard deviation of the data; only c_noise = `log_sigma` uses it.
        guidance: F also takes a guidance scale.
        segments: F also takes the time that a jump from t ends at: a segment's start, or a flow map's s.
        augment: F is also told how a sample of its training was augmented.
        log_weight: `linear` (w_phi of a model that is trained here) or `edm2` (EDM2's log-variance head).
        patch: pixels on a side of a transformer's token; U-Nets have 1.

    A transformer has neither `multipliers` nor `attention`: its `blocks` are all equal, and all of them attend.
    """

    resolution: int
    channels: int
    classes: int
    architecture: str
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    channels_per_head: int
    modulation: str = "double_norm"
    embedding: Embedding = "positional"
    fourier_scale: float = 1.0
    c_noise: NoiseInput = "t"
    sigma_d: float = 0.5
    guidance: bool = False
    segments: bool = False
    log_weight: LogWeight = "linear"
    augment: bool = False
    patch: int = 1

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "multipliers": list(self.multipliers), "attention": list(self.attention)}
        if not self.augment:  # as in headers that are older than this field
            del values["augment"]
        if self.patch == 1:
            del values["patch"]  # which headers of U-Nets never had
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkSettings":
        tuples: dict[str, Any] = {key: tuple(values[key]) for key in ("multipliers", "attention")}
        return cls(**{**values, **tuples})
