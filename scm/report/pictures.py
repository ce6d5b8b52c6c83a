"""The report's first pictures: real images, the teacher's and the leading student's, the same corner of each grid."""

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from scm.errors import UserError
from scm.generation.grids import corner, shape_of
from scm.report import data
from scm.report.findings import Findings, Row
from scm.results.reading import sample_path

MOST = 4
"""Most columns and rows of a picture, so that its images are large on a phone as well."""
WIDEST = 720
"""Most pixels across a picture: twice what a wide screen shows."""


class First(NamedTuple):
    """A picture at the top of the page.

    Attributes:
        row: whose samples it shows; None = real images.
        picture: a data URL.
    """

    row: Row | None
    picture: str


def first_pictures(findings: Findings) -> list[First]:
    """Pictures of equally many columns and rows. A column is a class, the same in each picture.

    Raises:
        UserError: a picture is missing or damaged.
    """
    resolution = findings.data["resolution"]
    rows = [None, findings.best_teacher, *([findings.leading_row] if findings.leading_row else [])]
    grids = [_opened(_path(findings.root, row)) for row in rows]
    shapes = [shape_of(grid.size, resolution) for grid in grids]
    columns = min(MOST, *(each for each, _ in shapes))
    lines = min(columns, *(each for _, each in shapes))
    return [
        First(row, _embedded(corner(grid, resolution, columns, lines))) for row, grid in zip(rows, grids, strict=True)
    ]


def _path(root: Path, row: Row | None) -> Path:
    return root / data.FOLDER / "real.png" if row is None else sample_path(root, row.model, row.evaluations)


def _opened(path: Path) -> Image.Image:
    content = data.picture(path)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture ({error}): {data.REMAKE}") from None


def _embedded(picture: Image.Image) -> str:
    """The picture as a data URL, reduced to `WIDEST`."""
    if picture.width > WIDEST:
        picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return data.data_url(content.getvalue())
