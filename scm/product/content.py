"""The contents of a packaged model: safetensors and JSON in one folder, which packaging writes and the model reads.

settings.json          everything in `Content`
student.safetensors    absent if a teacher is the product
teacher.safetensors
codec/                 decodes samples to pixels: header.json and, for latents, autoencoder.safetensors
card.md                for people
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scm.base.files import read_json, write_json
from scm.base.project import TEACHER
from scm.errors import UserError

FORMAT = 1
SETTINGS, CARD, CODEC = "settings.json", "card.md", "codec"
STUDENT = "student"
"""Role of the packaged model, whose teacher has the role TEACHER."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How one of the two models is sampled."""

    header: dict[str, Any]  # what selection chose, in addition to the file's own header, e.g. {"t_mid": 0.8}
    guidance: float  # scale for requests that name none
    guidance_range: tuple[float, float] | None  # scales that a request may ask for; None = only `guidance`


@dataclass(frozen=True)
class Content:
    """settings.json."""

    name: str  # the model's name, e.g. "scd"
    preset: str  # label of the preset that the model was trained with
    classes: list[str]  # names of the classes; empty = trained without classes
    student: Sampling | None  # None if a teacher is the product
    teacher: Sampling
    student_steps: list[int]  # numbers of steps that the student draws in; the teacher draws in larger numbers
    teacher_steps: int  # Heun steps that the teacher was measured with
    steps: int  # number of steps for requests that name none
    sigma_min: float  # smallest noise level that the teacher is sampled on
    sigma_max: float  # largest noise level
    rho: float  # exponent of EDM's spacing between the two

    def write(self, folder: Path) -> None:
        write_json(folder / SETTINGS, {"format": FORMAT, **asdict(self)})

    def example(self) -> dict[str, Any]:
        """A request that the model draws."""
        return {**({"class": self.classes[0]} if self.classes else {}), "seed": 0, "steps": self.steps}

    @classmethod
    def read(cls, folder: Path) -> "Content":
        """Reads settings.json, if this version of scm wrote it."""
        values = read_json(folder / SETTINGS)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise UserError(f"{folder / SETTINGS}: not of format {FORMAT}; load it with the scm that packaged it")
        for role in (STUDENT, TEACHER):
            if values[role] is not None:
                limits = values[role]["guidance_range"]
                values[role] = Sampling(**values[role] | {"guidance_range": limits and tuple(limits)})
        return cls(**values)
