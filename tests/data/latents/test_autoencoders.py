"""Autoencoders from files against independent computations, and encoding that is interrupted or divided."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from scm.base.randomness import generator
from scm.data.latents import autoencoders, encoding
from scm.data.latents.autoencoder_tiny import tiny_autoencoder
from scm.data.latents.codec import ChannelStatistics, Codec, normalized, plain_header
from scm.data.shards.shards import read_index
from scm.errors import UserError
from tests.support.shards import write_shards

CONFIG = {"latent_channels": 4, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "layers_per_block": 1,
          "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
          "_diffusers_version": "0"}  # fmt: skip
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8))


@pytest.fixture
def vae(tmp_path):
    """A folder with a random AutoencoderKL, and the same as diffusers has it."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL.from_config(CONFIG).eval()
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return folder, model


def tiny_tensors(pool=True):
    """encoder.N and decoder.N of three halvings with one block between, width 8, 5 latent channels."""
    draws = torch.Generator().manual_seed(0)

    def random(*shape):
        return 0.2 * torch.randn(shape, generator=draws)

    tensors = {}

    def layer(name, into, out, bias=True, size=3):
        tensors[f"{name}.weight"] = random(out, into, size, size)
        if bias:
            tensors[f"{name}.bias"] = random(out)

    def block(name):
        for place in (0, 2, 4):
            layer(f"{name}.conv.{place}", 8, 8)

    layer("encoder.0", 3, 8)
    for place in (1, 3, 5):
        layer(f"encoder.{place}", 8, 8, bias=False)
        block(f"encoder.{place + 1}")
    layer("encoder.7", 8, 5)
    layer("decoder.1", 5, 8)
    for place in (3, 6, 9):
        block(f"decoder.{place}")
        layer(f"decoder.{place + 2}", 8, 8, bias=False)
    layer("decoder.12", 8, 3)
    if pool:
        layer("decoder.3.pool.0", 8, 32, bias=False, size=1)
        tensors |= {"decoder.3.pool.1.weight": random(32), "decoder.3.pool.1.bias": random(32)}
        layer("decoder.3.pool.3", 32, 8, bias=False, size=1)
    return tensors


def by_hand(tensors, x, half):
    def conv(x, name, stride=1):
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, tensors.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)

    def block(x, name):
        if f"{name}.pool.0.weight" in tensors:
            norm = F.group_norm(
                conv(x, f"{name}.pool.0"), 4, tensors[f"{name}.pool.1.weight"], tensors[f"{name}.pool.1.bias"]
            )
            x = x + conv(F.relu(norm), f"{name}.pool.3")
        y = F.relu(conv(F.relu(conv(x, f"{name}.conv.0")), f"{name}.conv.2"))
        return F.relu(x + conv(y, f"{name}.conv.4"))

    if half == "encoder":
        x = conv(x, "encoder.0")
        for place in (1, 3, 5):
            x = block(conv(x, f"encoder.{place}", 2), f"encoder.{place + 1}")
        return conv(x, "encoder.7")
    x = F.relu(conv(3 * torch.tanh(x / 3), "decoder.1"))
    for place in (3, 6, 9):
        x = block(x, f"decoder.{place}").repeat_interleave(2, -1).repeat_interleave(2, -2)
        x = conv(x, f"decoder.{place + 2}")
    return conv(x, "decoder.12")


def write_tiny(folder, tensors):
    folder.mkdir()
    for half in ("encoder", "decoder"):
        own = {name.removeprefix(f"{half}."): value for name, value in tensors.items() if name.startswith(half)}
        torch.save(own, folder / f"tae_{half}.pth")
    return folder


@pytest.mark.parametrize(("name", "low"), [("sd_vae", -1.0), ("edm2_sd_vae", 0.0)])
def test_the_vae_does_what_diffusers_does(vae, name, low):
    folder, model = vae
    content = autoencoders.read_autoencoder(name, folder, None)
    ours = autoencoders.Pretrained(name, content, "fp32", "cpu")
    pixels = low + (1 - low) * IMAGES.float() / 255
    with torch.no_grad():
        expected = model.encode(pixels).latent_dist
        image = (model.decode(expected.mean).sample - low) / (1 - low) * 2 - 1
    torch.testing.assert_close(ours.store(IMAGES), torch.cat([expected.mean, expected.std], 1))
    torch.testing.assert_close(ours.pixels(expected.mean), image)
    assert (ours.channels, ours.reduction) == (4, 8)


def test_the_old_names_of_the_attention_are_read(vae):
    folder, model = vae
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = model.state_dict()
    renamed = {}
    for name, tensor in state.items():
        for new, was in old.items():
            name = name.replace(f".{new}.", f".{was}.")
        renamed[name] = tensor
    assert renamed.keys() != state.keys()
    save_file(renamed, folder / "diffusion_pytorch_model.safetensors")
    read = autoencoders.read_autoencoder("sd_vae", folder, None).tensors
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("pool", [False, True])
def test_the_tiny_autoencoder_equals_its_layers_by_hand(tmp_path, pool):
    tensors = tiny_tensors(pool)
    content = autoencoders.read_autoencoder("tae", write_tiny(tmp_path / "tae", tensors), None)
    assert content.tensors.keys() == tensors.keys() and len(content.hashes) == 2
    ours = autoencoders.Pretrained("tae", content, "fp32", "cpu")
    latents = by_hand(tensors, IMAGES.float() / 255, "encoder")
    assert latents.shape == (5, 5, 2, 2) and (ours.channels, ours.reduction) == (5, 8)
    torch.testing.assert_close(ours.store(IMAGES), latents)
    pixels = by_hand(tensors, latents, "decoder") * 2 - 1
    torch.testing.assert_close(ours.pixels(latents), pixels, rtol=1e-4, atol=1e-4)  # a level is 8e-3


def test_the_tiny_autoencoder_equals_diffusers_own(tmp_path):
    from diffusers import AutoencoderTiny

    theirs = AutoencoderTiny(encoder_block_out_channels=(64,) * 4, decoder_block_out_channels=(64,) * 4).eval()
    save_file(theirs.state_dict(), tmp_path / "one.safetensors")
    ours = autoencoders.Pretrained("tae", autoencoders.read_autoencoder("tae", tmp_path, None), "fp32", "cpu")
    with torch.no_grad():
        latents = theirs.encode(IMAGES.float() / 127.5 - 1).latents
        torch.testing.assert_close(ours.store(IMAGES), latents, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.pixels(latents), theirs.decode(latents).sample, atol=1e-5, rtol=1e-4)


def test_wrong_files_end_in_one_line(tmp_path, vae):
    folder = write_tiny(tmp_path / "tae", tiny_tensors())
    with pytest.raises(UserError, match=r"codec.sha256 = \[0+\]: .*tae_decoder.pth [0-9a-f]{64}, tae_encoder.pth"):
        autoencoders.read_autoencoder("tae", folder, ("0" * 64,))
    with pytest.raises(UserError, match=r"must be a folder with config.json"):
        autoencoders.read_autoencoder("sd_vae", folder, None)
    with pytest.raises(UserError, match="there is no such file or folder"):
        autoencoders.read_autoencoder("tae", tmp_path / "absent", None)
    (folder / "tae_encoder.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"tae_encoder.pth: damaged, or not a plain state dict"):
        autoencoders.read_autoencoder("tae", folder, None)
    with pytest.raises(UserError, match="x is no tiny autoencoder of the TAESD family"):
        tiny_autoencoder({**tiny_tensors(), "encoder.9.extra": torch.zeros(1)}, "x")
    (vae[0] / "config.json").write_text(json.dumps({**CONFIG, "latent_channels": 5}))
    with pytest.raises(UserError, match="configuration and weights are not one AutoencoderKL's"):
        autoencoders.Pretrained("sd_vae", autoencoders.read_autoencoder("sd_vae", vae[0], None), "fp32", "cpu")


def test_other_channels_than_params_yaml_says_are_refused(tmp_path):
    content = autoencoders.read_autoencoder("tae", write_tiny(tmp_path / "tae", tiny_tensors()), None)
    with pytest.raises(UserError, match=r"codec.channels = 4: x makes latents of 5 channels; write 5"):
        autoencoders.check_fits(autoencoders.Pretrained("tae", content, "fp32", "cpu"), 4, "x")


def test_without_diffusers_the_extra_is_named(vae, monkeypatch):
    content = autoencoders.read_autoencoder("sd_vae", vae[0], None)
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(UserError, match=r"needs diffusers .*: run `pip install -e '\.\[latents\]'`"):
        autoencoders.Pretrained("sd_vae", content, "fp32", "cpu")


def vae_codec(folder):
    content = autoencoders.read_autoencoder("sd_vae", folder, None)
    plain = plain_header("sd_vae", 0.5, [4, 2, 2], autoencoders.description(content, "fp32"))
    return content, plain, Codec(plain, autoencoders.Pretrained("sd_vae", content, "fp32", "cpu"))


def test_data_codec_decodes_without_the_original_files_and_knows_other_models(tmp_path, vae):
    content, plain, codec = vae_codec(vae[0])
    autoencoders.save_codec(tmp_path / "codec", plain, content)
    loaded = autoencoders.load_codec(tmp_path / "codec")
    x = torch.randn(3, 4, 2, 2, generator=generator(0, "test"))
    assert torch.equal(loaded.decode(x), codec.decode(x)) and loaded.decode(x).shape == (3, 3, 16, 16)
    loaded.check(plain, "models/scd")
    with pytest.raises(
        UserError, match=r"^models/scd was made with another codec .*\(normalize, std differ\): run `scm run`"
    ):
        loaded.check({**plain, "normalize": "measured", "std": [1.0] * 4}, "models/scd")


def test_statistics_are_those_of_the_drawn_latents(vae):
    _, plain, codec = vae_codec(vae[0])
    stored = codec.encode(IMAGES)
    statistics = ChannelStatistics()
    for part in stored.split(2):
        statistics.add(*codec.moments(part))
    mean, deviation = stored.double().chunk(2, 1)
    assert torch.allclose(statistics.mean, mean.mean((0, 2, 3)))
    expected = mean.var((0, 2, 3), unbiased=False) + deviation.square().mean((0, 2, 3))
    assert np.allclose(np.square(statistics.std), expected)
    codec = Codec(normalized(plain, "measured", statistics))
    many = stored.repeat(2000, 1, 1, 1)
    x = codec.serve(many, lambda place: generator(0, "latents", place))
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(4), atol=0.02)
    assert torch.allclose(x.std((0, 2, 3)), torch.full((4,), 0.5), atol=0.02)


def test_encoding_gives_the_same_bytes_interrupted_or_divided(tmp_path, vae):
    pictures = [(f"{i}", image.permute(1, 2, 0).numpy(), i % 2) for i, image in enumerate(IMAGES)]
    shards = tmp_path / "shards"
    write_shards(pictures, shards, 2, classes=["a", "b"], channels=3, resolution=16)
    _, plain, codec = vae_codec(vae[0])
    results = []
    for number, ranks in enumerate(([(0, 1)], [(1, 2), (0, 2)], [(0, 1), (0, 1)])):
        work = tmp_path / f"work{number}"
        work.mkdir()
        for rank, world in ranks:
            encoding.encode_shards(shards, work, codec, "fp16", rank, world, print)
            if ranks == [(0, 1), (0, 1)] and not (work / "killed").exists():
                (work / "000002").rename(work / "killed")  # a shard that was never finished: it has another name
        encoding.wait_for(work, shards)
        folder = tmp_path / f"latents{number}"
        encoding.join(work, shards, folder, plain)
        results.append({file.name: file.read_bytes() for file in folder.iterdir()})
        statistics, psnr = encoding.measured(work, shards)
        assert statistics.count == 5 * 4 and len(psnr) == 5
    assert results[0] == results[1] == results[2]
    # Each file of a finished shard is verified before the shard is taken as finished.
    for name in ("000001/000000.tar", "000002/labels.npy", "000000/offsets.npy", "000001/index.json"):
        content = bytearray((work / name).read_bytes())
        content[len(content) // 2] ^= 1
        (work / name).write_bytes(content)
        encoding.encode_shards(shards, work, codec, "fp16", 0, 1, print)
        encoding.join(work, shards, folder, plain)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == results[0]
    index = read_index(tmp_path / "latents0")
    assert (index["shape"], index["dtype"], index["class_counts"]) == ([8, 2, 2], "float16", [3, 2])
    # One that is damaged when its process has finished is removed, and the next run encodes it.
    damaged = work / "000001/000000.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"/000001 was damaged while the processes ran, and is removed: run the same"):
        encoding.wait_for(work, shards, 0.01, 0.05)
    assert not damaged.parent.exists()
    encoding.encode_shards(shards, work, codec, "fp16", 1, 2, print)
    encoding.wait_for(work, shards, 0.01, 0.05)


@pytest.mark.parametrize(("trips", "expected"), [(256, 5), (6, 5), (4, 3), (1, 3)])
def test_round_trips_are_taken_from_all_shards_whatever_the_batch(tmp_path, vae, monkeypatch, trips, expected):
    monkeypatch.setattr(encoding, "MAX_IMAGES", 1)
    monkeypatch.setattr(encoding, "ROUND_TRIPS", trips)
    pictures = [(f"{i}", image.permute(1, 2, 0).numpy(), 0) for i, image in enumerate(IMAGES)]
    shards, work = tmp_path / "shards", tmp_path / "work"
    write_shards(pictures, shards, 2, classes=["a"], channels=3, resolution=16)
    work.mkdir()
    _, _, codec = vae_codec(vae[0])
    encoding.encode_shards(shards, work, codec, "fp32", 0, 1, print)
    _, psnr = encoding.measured(work, shards)
    decoded = codec.decode(codec.moments(codec.encode(IMAGES))[0]).double()
    mse = (decoded - IMAGES.double()).square().flatten(1).mean(1)
    every = (20 * np.log10(255) - 10 * mse.log10()).tolist()
    assert len(psnr) == expected
    assert psnr == pytest.approx(every if expected == 5 else every[::2], abs=0.05)  # rounded to a level
