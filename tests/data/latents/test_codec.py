import json
from typing import get_args

import numpy as np
import pytest
import torch

from scm.base.randomness import generator
from scm.data.latents.codec import (
    LATENT_REDUCTION,
    NAMES,
    PUBLISHED,
    ChannelStatistics,
    Codec,
    normalized,
    plain_header,
)
from scm.errors import UserError
from scm.params import schema

ALL_VALUES = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)


def measured_header(plain, batches):
    codec, statistics = Codec(plain), ChannelStatistics()
    for batch in batches:
        statistics.add(*codec.moments(batch))
    return normalized(plain, "measured", statistics)


def images(seed=0, count=50):
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.integers(0, [[[[200]], [[90]], [[256]]]], (count, 3, 4, 4), dtype=np.uint8))


@pytest.mark.parametrize("normalize", ["none", "measured"])
def test_pixels_come_back_exactly(normalize):
    header = plain_header("identity", 0.5, [3, 16, 16])
    if normalize == "measured":
        header = measured_header(header, [ALL_VALUES // 7])
    codec = Codec(header)
    x = codec.serve(codec.encode(ALL_VALUES))
    assert x.dtype == torch.float32
    assert torch.equal(codec.decode(x), ALL_VALUES)


def test_none_leaves_pixels_between_minus_one_and_one():
    x = Codec(plain_header("identity", 0.5, [3, 16, 16])).serve(ALL_VALUES)
    assert x.min() == -1 and x.max() == 1


def test_measured_figures_equal_numpys_over_all_pixels_whatever_the_batches():
    data = images()
    header = measured_header(plain_header("identity", 0.5, [3, 4, 4]), data.split([7, 1, 30, 12]))
    latents = data.numpy().astype(np.float64) / 127.5 - 1
    assert np.allclose(header["mean"], latents.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(header["std"], latents.std((0, 2, 3)), atol=1e-6)


def test_measured_data_have_mean_0_and_standard_deviation_sigma_d():
    data = images()
    x = Codec(measured_header(plain_header("identity", 0.5, [3, 4, 4]), data.split(9))).serve(data).double()
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(x.std((0, 2, 3), unbiased=False), torch.full((3,), 0.5, dtype=torch.float64), atol=1e-6)


def test_values_outside_are_cut_off():
    codec = Codec(plain_header("identity", 0.5, [1, 1, 1]))
    assert codec.decode(torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1)).flatten().tolist() == [0, 255]


def test_the_header_survives_json():
    header = Codec(measured_header(plain_header("identity", 0.5, [3, 4, 4]), [images()])).header
    again = Codec(json.loads(json.dumps(header)))
    assert again.header == header
    assert torch.equal(again.serve(images()), Codec(header).serve(images()))


def test_a_constant_channel_cannot_be_measured():
    data = images()
    data[:, 1] = 255
    with pytest.raises(UserError, match=r"channel 1 is 1 in every image.*codec.normalize: none"):
        measured_header(plain_header("identity", 0.5, [3, 4, 4]), data.split(10))


def test_an_unknown_codec_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError,
        match=r'codec header: name = "vae9": must be "identity" or "sd_vae" or .*: run `scm run encode` again',
    ):
        Codec(plain_header("vae9", 0.5, [3, 4, 4]))


def test_an_incomplete_header_is_refused():
    header = plain_header("identity", 0.5, [3, 4, 4])
    del header["std"]
    with pytest.raises(UserError, match="codec header lacks std: run `scm run encode` again"):
        Codec(header)


def test_the_schema_and_the_codecs_know_the_same():
    """The schema has its own copy, so that parameters are checked without loading torch."""
    assert schema.LATENT_REDUCTION == LATENT_REDUCTION
    assert get_args(schema.CodecSettings.model_fields["name"].annotation) == NAMES


@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
@pytest.mark.parametrize(("count", "side"), [(5, 64), (70, 32), (3, 1), (0, 8)])
def test_drawn_latents_are_those_of_the_formula_to_the_bit(kept, count, side):
    """In parts and in place as at once: (mean + deviation * draw - shift) * scale, with a draw for each image."""
    header = plain_header("sd_vae", 0.5, [4, side, side], {"sha256": [], "config": {}, "precision": "fp32"})
    header |= {"normalize": "paper", "mean": PUBLISHED["sd_vae"][0], "std": PUBLISHED["sd_vae"][1]}
    stored = torch.randn(count, 8, side, side, generator=generator(0, "stored")).to(kept)
    before, x = stored.clone(), Codec(header).serve(stored, lambda place: generator(7, "latents", place))
    assert torch.equal(stored, before) and x.shape == (count, 4, side, side) and x.dtype == torch.float32
    shift = torch.tensor(header["mean"]).view(-1, 1, 1)
    scale = (0.5 / torch.tensor(header["std"], dtype=torch.float64)).float().view(-1, 1, 1)
    for place, image in enumerate(x):
        mean, deviation = stored[place].float().chunk(2)
        draw = torch.randn(4, side, side, generator=generator(7, "latents", place))
        assert torch.equal(image, (mean + deviation * draw - shift) * scale)
