import numpy
import pytest
import torch
from PIL import Image

from scm.generation.grids import GAP_GREY, save_grid, scale_for


def test_every_pixel_is_where_it_belongs(tmp_path):
    images = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
    save_grid(tmp_path / "grid.png", images, columns=2, scale=3)
    with Image.open(tmp_path / "grid.png") as file:
        assert file.format == "PNG"
        picture = numpy.asarray(file)
    assert picture.shape == (3 * 13 + 1, 2 * 19 + 1, 3)
    cells = numpy.zeros(picture.shape[:2], dtype=bool)
    for position, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = 1 + position // 2 * 13, 1 + position % 2 * 19
        numpy.testing.assert_array_equal(picture[top : top + 12, left : left + 18], image.repeat(3, 0).repeat(3, 1))
        cells[top : top + 12, left : left + 18] = True
    assert (picture[~cells] == GAP_GREY).all()


def test_grey_images_become_grey(tmp_path):
    save_grid(tmp_path / "grid.png", torch.full((1, 1, 2, 2), 7, dtype=torch.uint8), columns=1, scale=1)
    with Image.open(tmp_path / "grid.png") as file:
        assert (numpy.asarray(file)[1:3, 1:3] == 7).all()


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.uint8), torch.zeros(0, 1, 4, 4, dtype=torch.uint8)],
)
def test_refuses_what_is_no_picture(tmp_path, images):
    with pytest.raises(ValueError, match=r"^a grid needs uint8 \[N, 1 or 3, H, W\] with N > 0, not torch\."):
        save_grid(tmp_path / "grid.png", images, columns=1, scale=1)


@pytest.mark.parametrize(("resolution", "scale"), [(8, 7), (32, 2), (64, 1), (256, 1)])
def test_small_images_are_enlarged_to_be_seen(resolution, scale):
    assert scale_for(resolution) == scale
