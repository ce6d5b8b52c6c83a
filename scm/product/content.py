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
    """How one of the two models is sampled.

    Attributes:
        header: what selection chose, in addition to the file's own header, e.g. {"t_mid": 0.8}.
        guidance: scale for requests that name none.
        guidance_range: scales that a request may ask for; None = only `guidance`.
    """

    header: dict[str, Any]
    guidance: float
    guidance_range: tuple[float, float] | None


@dataclass(frozen=True)
class Content:
    """settings.json.

    Attributes:
        name: the model's name, e.g. "scd".
        preset: label of the preset that the model was trained with.
        classes: names of the classes; empty = trained without classes.
        student: how the student is sampled; None if a teacher is the product.
        teacher: how the teacher is sampled.
        student_steps: numbers of steps that the student draws in; the teacher draws in larger numbers.
        teacher_steps: Heun steps that the teacher was measured with.
        steps: number of steps for requests that name none.
        sigma_min: smallest noise level that the teacher is sampled on.
        sigma_max: largest noise level.
        rho: exponent of EDM's spacing between the two.
    """

    name: str
    preset: str
    classes: list[str]
    student: Sampling | None
    teacher: Sampling
    student_steps: list[int]
    teacher_steps: int
    steps: int
    sigma_min: float
    sigma_max: float
    rho: float

    def write(self, folder: Path) -> None:
        write_json(folder / SETTINGS, {"format": FORMAT, **asdict(self)})

    def example(self) -> dict[str, Any]:
        """A request that the model draws."""
        return {**({"class": self.classes[0]} if self.classes else {}), "seed": 0, "steps": self.steps}

    @classmethod
    def read(cls, folder: Path) -> "Content":
        """Reads settings.json.

        Raises:
            UserError: another version of scm wrote it.
        """
        values = read_json(folder / SETTINGS)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise UserError(f"{folder / SETTINGS}: not of format {FORMAT}; load it with the scm that packaged it")
        for role in (STUDENT, TEACHER):
            if values[role] is not None:
                values[role] = _sampling(values[role])
        return cls(**values)


def _sampling(values: dict[str, Any]) -> Sampling:
    limits = values["guidance_range"]
    return Sampling(values["header"], values["guidance"], None if limits is None else (limits[0], limits[1]))
