"""Edits beyond grey pixels: colours, whose channels are normalised apart, and latents."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from scm.data.latents.codec import Codec, plain_header
from scm.errors import UserError
from scm.generation.editing import edit_sampler, read_picture, require_editor, require_task
from scm.samplers import SampleNoise

MAX_PIXELS = 2**20


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noisy(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, shape, dtype=np.uint8)


def blurred(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """F of f = 0.2 x_t, any network's stand-in."""
    t = t.reshape(-1, 1, 1, 1)
    return (torch.cos(t) - 0.2) / torch.sin(t) * x


class Squares:
    """An autoencoder whose latents are the mean pixels of squares of 8 x 8, and whose pixels are a little off."""

    def store(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.float() / 127.5 - 1, 8)

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3) + 0.03


def test_a_grey_picture_is_coloured_and_keeps_its_grey_values():
    """Whatever the normalisation of each channel."""
    header = {**plain_header("identity", 0.5, [3, 8, 8]), "mean": [0.1, -0.2, 0.3], "std": [0.4, 0.6, 0.5]}
    codec, given = Codec({**header, "normalize": "measured"}), noisy(8, 8)
    picture = read_picture("colour", codec, ("given", png(given)), None, MAX_PIXELS, 2)
    assert (picture.shown().numpy() == given).all() and picture.shown().shape == (1, 3, 8, 8)
    sampler = edit_sampler(picture, codec, [1.5, 0.8], "cpu")
    images = picture.finished(codec.decode(sampler.run(blurred, SampleNoise([0, 1], (3, 8, 8))))).float()
    grey = torch.einsum("bchw,c->bhw", images, torch.tensor([0.299, 0.587, 0.114]))
    inside = ((images > 0) & (images < 255)).all(1)
    assert inside.float().mean() > 0.5 and (grey - torch.from_numpy(given))[inside].abs().max() <= 0.51
    assert (images[:, 0] - images[:, 2]).abs().mean() > 5


def test_latents_are_inpainted_where_any_pixel_is_missing():
    """The decoder's errors do not touch the given pixels."""
    header = plain_header("tae", 0.5, [3, 4, 4], {"sha256": ["0"], "config": {}, "precision": "fp32"})
    codec, given, hole = Codec(header, Squares()), noisy(32, 32, 3), np.zeros((32, 32), dtype=np.uint8)
    hole[5:12, 9:10] = 255  # of the latents (0, 1) and (1, 1)
    picture = read_picture("inpaint", codec, ("given", png(given)), ("mask", png(hole)), MAX_PIXELS, 2)
    latents = edit_sampler(picture, codec, [1.5, 0.8], "cpu").run(blurred, SampleNoise([0, 1], (3, 4, 4)))
    own = codec.serve(codec.encode(picture.given))
    changed = (latents != own).any(1)
    assert changed.nonzero().tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    images = picture.finished(codec.decode(latents)).permute(0, 2, 3, 1).numpy()
    assert (images[:, hole == 0] == given[hole == 0]).all() and (images[:, hole > 0] != given[hole > 0]).any()
    stroke = read_picture("stroke", codec, ("given", png(given)), None, MAX_PIXELS, 2)
    followed = edit_sampler(stroke, codec, [0.01], "cpu").run(lambda x, t: x * 0, SampleNoise([0], (3, 4, 4)))
    torch.testing.assert_close(followed, own, rtol=0, atol=0.03)


@pytest.mark.parametrize("task", ["colour", "upscale"])
def test_latents_have_neither_colours_nor_patches(task):
    header = plain_header("tae", 0.5, [3, 4, 4], {"sha256": ["0"], "config": {}, "precision": "fp32"})
    with pytest.raises(UserError) as caught:
        require_task(task, header, 2, False)
    assert str(caught.value) == f"--task {task}: this model draws latents, which are no pixels; use inpaint or stroke"


def test_flow_maps_edit_and_models_of_fixed_jumps_do_not():
    one = {"1": {"guidance_scale": 1.0}}
    require_editor({"model": "ayf", "any_steps": True, "sampling": one}, "--model ayf")
    for header in ({"model": "vsd", "sampling": one}, {"model": "multistep", "segments": 2, "sampling": one}):
        with pytest.raises(
            UserError, match=f"^--model {header['model']}: it does not jump to the data from any time; "
        ):
            require_editor(header, f"--model {header['model']}")
