"""scm.report.pictures: the first pictures show the same corner of each grid, and no more pixels than a screen needs."""

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from scm.errors import UserError
from scm.generation.grids import save_grid, scale_for
from scm.report.pictures import first_pictures
from tests.support.findings import findings_of, row_of


def grids(root: Path, resolution: int, columns: int, rows: int, real_rows: int = 4):
    """Findings whose grids have tiles of one grey, 10 * row + column."""
    for name, lines in (("prepare/real", real_rows), ("teacher/nfe-35", rows), ("scd/nfe-2", rows)):
        path = root / f"results/samples/{name}.png"
        path.parent.mkdir(parents=True)
        tiles = [10 * row + column for row in range(lines) for column in range(columns)]
        greys = torch.tensor(tiles, dtype=torch.uint8)[:, None, None, None]
        save_grid(path, greys.expand(-1, 1, resolution, resolution), columns, scale_for(resolution))
    data = {"resolution": resolution, "classes": []}
    return findings_of(row_of("teacher", 35, 1.0), row_of("scd", 2, 1.2), root=root, data=data)


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))).convert("L")


@pytest.mark.parametrize(
    ("resolution", "columns", "rows", "shape"),
    [(8, 10, 4, (4, 4)), (8, 10, 2, (4, 2)), (16, 3, 8, (3, 3)), (256, 5, 1, (4, 1)), (8, 1, 4, (1, 1))],
)
def test_the_same_corner_of_each_grid_is_shown(tmp_path, resolution, columns, rows, shape):
    shown = first_pictures(grids(tmp_path, resolution, columns, rows))
    assert [row and row.model for row, _ in shown] == [None, "teacher", "scd"]
    for _, url in shown:
        picture, (wide, high) = opened(url), shape
        assert picture.width <= 720
        cell = picture.width / wide
        seen = [
            [picture.getpixel((round(cell * (x + 0.5)), round(cell * (y + 0.5)))) for x in range(wide)]
            for y in range(high)
        ]
        assert seen == [[10 * y + x for x in range(wide)] for y in range(high)]


def test_a_damaged_picture_is_named_with_a_remedy(tmp_path):
    findings = grids(tmp_path, 8, 10, 4)
    path = tmp_path / "results/samples/prepare/real.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"real\.png is not a picture \(.*\): delete it and run `scm run`"):
        first_pictures(findings)
    path.unlink()
    with pytest.raises(UserError, match=r"real\.png is missing or empty: delete it and run"):
        first_pictures(findings)
