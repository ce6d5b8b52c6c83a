"""EDM's augmentation: its geometry against closed forms and scipy's warps, its distributions, and what F is told."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from scm.networks import Model
from scm.objectives.augmentation import augmented, inverse, warped
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Batch
from tests.support.models import tiny_model

SIDE = 16
NONE = {"scale": 0.0, "turn": 0.0, "stretch": 0.0, "axis": 0.0, "shift": (0.0, 0.0)}


def picture(side: int = SIDE) -> torch.Tensor:
    """Noise without fine detail, [1, 1, side, side] in float64."""
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), 1.5, mode="mirror"))[None, None]


def geometry(side: int = SIDE, **changes: float | tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    values = (torch.tensor([value], dtype=torch.float64) for value in (NONE | changes).values())
    return inverse(*values, side)


def moved(image: torch.Tensor, **changes: float | tuple[float, float]) -> torch.Tensor:
    return warped(image, *geometry(image.shape[-1], **changes))


def batch(count: int = 8, rank: int = 0, world: int = 1, side: int = 8) -> Batch:
    """A rank's part of a batch of `count` images and no two pixels alike."""
    x_0 = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = slice(rank * count // world, (rank + 1) * count // world)
    labels = torch.zeros(count, dtype=torch.int64)
    return Batch(x_0[own], labels[own], torch.Generator().manual_seed(0), rank, world)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3])
def test_a_rotation_by_quarters_moves_pixels_to_pixels(quarters):
    """Rotating by -turn in coordinates whose y points down is counterclockwise on the screen, as np.rot90 turns."""
    image = picture()
    expected = torch.from_numpy(np.rot90(image.numpy(), quarters, axes=(2, 3)).copy())
    assert torch.allclose(moved(image, turn=quarters * math.pi / 2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (-1, 4)])
def test_a_translation_by_whole_pixels_moves_pixels_to_pixels(right, down):
    """An image of 16 pixels moves by two of them for each standard deviation; what enters is its reflection."""
    image = picture()
    expected = ndimage.shift(image[0, 0].numpy(), (down, right), order=0, mode="mirror")
    found = moved(image, shift=(right / 2, down / 2))
    assert torch.allclose(found[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-12)


CHANGES = [
    {"scale": 0.8},
    {"scale": -1.3, "shift": (0.3, -0.2)},
    {"turn": 0.7},
    {"stretch": 1.1, "axis": 0.5},
    {"scale": 0.5, "turn": -2.0, "stretch": -0.9, "axis": 2.5, "shift": (0.4, 0.9)},
]


def forward(
    side: int, scale: float, turn: float, stretch: float, axis: float, shift: tuple[float, float]
) -> np.ndarray:
    """Table 6 step by step: the matrix from places (x, y, 1), in pixels from the image's centre, to new places."""

    def rotate(angle: float) -> np.ndarray:
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    move = np.array([[1, 0, shift[0] * side / 8], [0, 1, shift[1] * side / 8], [0, 0, 1]])
    along = rotate(axis) @ np.diag([2 ** (0.2 * stretch), 2 ** (-0.2 * stretch), 1]) @ rotate(-axis)
    return move @ along @ rotate(-turn) @ np.diag([2 ** (0.2 * scale), 2 ** (0.2 * scale), 1])


@pytest.mark.parametrize("changes", CHANGES)
def test_the_geometry_is_table_6s(changes):
    linear, offset = geometry(**changes)
    back = np.linalg.inv(forward(SIDE, **NONE | changes))
    half = (SIDE - 1) / 2
    assert np.allclose(linear[0].numpy(), back[:2, :2], rtol=0, atol=1e-12)
    assert np.allclose(offset[0].numpy() * half, back[:2, 2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", CHANGES)
def test_warps_are_scipys(changes):
    """scipy interpolates by splines and torch by cubic convolution, so they differ by hundredths of the contrast."""
    image, centre = picture(32), (32 - 1) / 2
    back = np.linalg.inv(forward(32, **NONE | changes))
    matrix, offset = back[:2, :2][::-1, ::-1], back[:2, 2][::-1]  # scipy's places are (y, x)
    offset = offset + centre - matrix @ (centre, centre)
    expected = ndimage.affine_transform(image[0, 0].numpy(), matrix, offset, order=3, mode="mirror")
    error = moved(image, **changes)[0, 0] - torch.from_numpy(expected)
    assert error.std() < 0.03 * image.std()


def test_without_augmentation_only_flips_are_left_and_they_are_exact():
    whole = batch(64)
    found, told = augmented(whole, 0.0)
    left_to_right = told[:, 0] == 1
    assert 20 < left_to_right.sum() < 44 and not told[:, 1:].any()
    for x_0, given, flipped in zip(whole.x_0, found.x_0, left_to_right, strict=True):
        assert torch.equal(given, x_0.flip(-1) if flipped else x_0)


def test_what_is_told_has_the_papers_distributions():
    """Table 6: x-flips always, the others with a probability of 0.3 here; angles uniform, the rest standard normal."""
    told = augmented(batch(20_000, side=2), 0.3)[1]
    x_flip, y_flip, scale, cos, sin, along_x, along_y, right, down = told.numpy().T
    assert x_flip.mean() == pytest.approx(0.5, abs=0.02) and y_flip.mean() == pytest.approx(0.15, abs=0.01)
    used = [values != 0 for values in (scale, sin, along_x, right)]
    assert [each.mean() for each in used] == pytest.approx([0.3] * 4, abs=0.02)
    assert abs(np.corrcoef([y_flip, *used]) - np.eye(5)).max() < 0.05, "each is chosen by itself"
    assert np.array_equal(right != 0, down != 0)
    turn = np.arctan2(sin, cos + 1)[sin != 0]
    length = np.hypot(along_x, along_y)[along_x != 0]
    axis = np.arctan2(along_y, along_x)[along_x != 0]
    assert np.allclose(np.hypot(sin, cos + 1), 1)
    for values in (turn, axis):
        assert stats.kstest(values / math.pi, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for values in (scale[used[0]], right[used[3]], down[used[3]]):
        assert stats.kstest(values, stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest(length, stats.halfnorm.cdf).pvalue > 1e-3


def test_the_image_is_distorted_as_it_is_told():
    """From the nine numbers alone, the distortion of each sample is made again."""
    whole = batch(64, side=SIDE)
    found, told = augmented(whole, 0.5)
    for x_0, given, row in zip(whole.x_0, found.x_0, told.tolist(), strict=True):
        x_flip, y_flip, scale, cos, sin, along_x, along_y, right, down = row
        image = x_0.flip([axis for axis, on in ((2, x_flip), (1, y_flip)) if on])[None]
        axis, length = math.atan2(along_y, along_x), math.hypot(along_x, along_y)
        turn = math.atan2(sin, cos + 1)
        # The paper's numbers tell the same of a stretch along an axis and of a compression along its opposite.
        known = {"scale": scale, "turn": turn, "axis": axis, "shift": (right, down)}
        again = [moved(image, **known, stretch=stretch)[0] for stretch in (length, -length)]
        assert any(torch.allclose(one, given, rtol=0, atol=1e-9) for one in again)


def test_processes_augment_parts_of_one_batch():
    whole, told = augmented(batch(), 0.5)
    parts = [augmented(batch(rank=rank, world=2), 0.5) for rank in range(2)]
    assert torch.equal(torch.cat([part.x_0 for part, _ in parts]), whole.x_0)
    assert torch.equal(torch.cat([labels for _, labels in parts]), told)


class Told(Model):
    """The network, told of one augmentation whatever the objective tells it."""

    labels: torch.Tensor

    def forward(self, x, t, labels=None):
        return super().forward(x, t, labels, augment=self.labels)


@pytest.mark.parametrize("architecture", ["edm2", "ddpmpp"])
def test_the_loss_takes_the_augmented_image_and_tells_the_network(architecture):
    wide = {"architecture": architecture, "width": 16, "channels_per_head": 16}
    model = tiny_model(**wide, augment=True)
    layer = next(value for name, value in model.named_parameters() if "_augment." in name)
    assert layer.shape[1] == 9 and not layer.any()
    torch.nn.init.normal_(layer)
    single = dataclasses.replace(batch(), x_0=batch().x_0.float())
    losses = Diffusion(0.5, -0.8, 1.0, augment=0.5)(model, single, 0)
    losses.value.sum().backward()
    assert layer.grad is not None and layer.grad.abs().sum() > 0
    single.generator.manual_seed(0)
    image, told = augmented(single, 0.5)
    other = Told(model.settings)
    other.load_state_dict(model.state_dict())
    other.labels = told
    assert torch.equal(Diffusion(0.5, -0.8, 1.0)(other, image, 0).value, losses.value)
