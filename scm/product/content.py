"""What a packaged model consists of: safetensors and JSON in one folder, which the model reads and packaging writes.

settings.json          everything in `Content`
student.safetensors    absent where a teacher is the product
teacher.safetensors
codec/                 what decodes samples to pixels: header.json and, of latents, autoencoder.safetensors
card.md                for people
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scm.base.files import read_json, write_json
from scm.errors import UserError

FORMAT = 1
SETTINGS, CARD, CODEC = "settings.json", "card.md", "codec"
STUDENT, TEACHER = "student", "teacher"
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Drawing:
    """How one of the two models is drawn with.

    Attributes:
        header: what selection chose beside the file's own header, e.g. {"t_mid": 0.8}.
        guidance: scale where a request names none.
        guidance_range: scales that may be asked for; None = that one alone.
    """

    header: dict[str, Any]
    guidance: float
    guidance_range: tuple[float, float] | None


@dataclass(frozen=True)
class Content:
    """settings.json.

    Attributes:
        name: of the method, e.g. "scd".
        preset: label of the preset that it was trained with.
        classes: their names; empty = trained without.
        student: None where a teacher is the product.
        teacher: of the student.
        student_steps: numbers of steps that the student draws in; those above them are the teacher's.
        teacher_steps: Heun steps that the teacher was measured with.
        steps: where a request names none.
        sigma_min: with sigma_max and rho the noise levels that the teacher is sampled on.
    """

    name: str
    preset: str
    classes: list[str]
    student: Drawing | None
    teacher: Drawing
    student_steps: list[int]
    teacher_steps: int
    steps: int
    sigma_min: float
    sigma_max: float
    rho: float

    def write(self, folder: Path) -> None:
        write_json(folder / SETTINGS, {"format": FORMAT, **asdict(self)})

    def example(self) -> dict[str, Any]:
        """A row that the model draws."""
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
                values[role] = _drawing(values[role])
        return cls(**values)


def _drawing(values: dict[str, Any]) -> Drawing:
    limits = values["guidance_range"]
    return Drawing(values["header"], values["guidance"], None if limits is None else (limits[0], limits[1]))
