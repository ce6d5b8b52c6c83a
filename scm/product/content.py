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

from scm.base.documents import read_json
from scm.base.files import write_json
from scm.base.forms import Positive, Whole, require
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.generation.trained import Choice

FORMAT = 2
SETTINGS, CARD, CODEC = "settings.json", "card.md", "codec"
PACKED = "artifacts/product"
"""The folder within a package."""
STUDENT = "student"
"""Role of the packaged model, whose teacher has the role TEACHER."""
MAX_SEED = 2**63 - 1
REPACK = "fetch the package again, or make it again with `scm publish`"
"""Remedy for a package with a file that is missing or damaged."""


@dataclass(frozen=True)
class Sampling:
    """How one of the two models is sampled."""

    choices: dict[str, Choice]  # for each number of steps the chosen scale, for requests that name none, and t_mid
    guidance_range: tuple[float, float] | None  # scales that a request may ask for; None = only the chosen one
    commit: str = "unknown"  # of the run that chose the model's weights; packages of earlier versions lack it


@dataclass(frozen=True)
class Content:
    """settings.json."""

    name: str  # the model's name, e.g. "scd"
    preset: str  # label of the preset that the model was trained with
    classes: list[str]  # names of the classes; empty = trained without classes
    student: Sampling | None  # None if a teacher is the product
    teacher: Sampling
    teacher_steps: Whole  # Heun steps that the teacher was measured with
    steps: Whole  # number of steps for requests that name none
    sigma_min: Positive  # smallest noise level that the teacher is sampled on
    sigma_max: Positive  # largest noise level
    rho: Positive  # exponent of EDM's spacing between the two

    @property
    def student_steps(self) -> list[int]:
        """Numbers of steps that the student draws in, fewest first; the teacher draws in larger numbers."""
        return sorted(map(int, self.student.choices)) if self.student else []

    def write(self, folder: Path) -> None:
        write_json(folder / SETTINGS, {"format": FORMAT, **asdict(self)})

    def example(self) -> dict[str, Any]:
        """A request that the model draws."""
        return {**({"class": self.classes[0]} if self.classes else {}), "seed": 0, "steps": self.steps}

    @classmethod
    def read(cls, folder: Path) -> "Content":
        """Reads settings.json, if this version of scm wrote it."""
        path = folder / SETTINGS
        values = read_json(path, dict[str, Any], REPACK, REPACK)
        if values.pop("format", None) != FORMAT:
            raise UserError(f"{path}: not of format {FORMAT}; load it with the scm that packaged it")
        require(values, cls, str(path), REPACK)
        for role in (STUDENT, TEACHER):
            if values[role] is not None:
                limits = values[role]["guidance_range"]
                values[role] = Sampling(**values[role] | {"guidance_range": limits and tuple(limits)})
        return cls(**values)
