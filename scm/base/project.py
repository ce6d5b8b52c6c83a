"""The project's folder, and the name of the teacher."""

from pathlib import Path

from scm.errors import UserError

TEACHER = "teacher"
"""Name of the model that is trained first. The other models are students, named after their methods."""


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the current folder) that holds a dvc.yaml."""
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"{start} is not inside the project: no dvc.yaml here or above; change to the project's folder")
