"""Files as EDM2 and EDM write them: networks' tensors by the programs' names, in pickles of persistent classes.

Written from the format alone: names and shapes are derived here, and checked against the originals' by a hash in
tests/golden. A pickled module is a call of `torch_utils.persistence._reconstruct_persistent_obj` with the source of its
class (here one that fails when it is run), the name of the class and its attributes.
"""

import hashlib
import math
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "raise SystemExit('the source in the pickle was run')"
Shapes = dict[str, tuple[int, ...]]


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


EasyDict.__module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise SystemExit("the pickle was loaded")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class _Pickled:
    class_name: str

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name}
        return _reconstruct_persistent_obj, ({**meta, "state": vars(self)},)


class Persistent(_Pickled):
    """An object of a persistent class that is no module: an encoder or a loss."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        vars(self).update(attributes, class_name=class_name, _init_args=(), _init_kwargs={})


class PersistentModule(_Pickled, nn.Module):
    """A module of a persistent class, with attributes and tensors."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes, class_name=class_name, _init_args=(), _init_kwargs={})


def dump(value: Any, path: Path, protocol: int = 4) -> Path:
    """Pickles under the modules' names that the originals have."""
    modules = {
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
    }
    for name, content in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        path.write_bytes(pickle.dumps(value, protocol))
    finally:
        for name in modules:
            del sys.modules[name]
    return path


def edm2_shapes(
    resolution: int, channels: int, classes: int, width: int, multipliers: tuple[int, ...], blocks: int, attention: int
) -> Shapes:
    """Tensors of EDM2's Precond; `attention`: the one resolution that has it."""
    embedding = width * max(multipliers)

    def block(name: str, into: int, out: int, attend: bool) -> Shapes:
        encoder = name.startswith("unet.enc")
        shapes: Shapes = {"emb_gain": (), "emb_linear.weight": (out, embedding), "conv_res1.weight": (out, out, 3, 3)}
        shapes["conv_res0.weight"] = (out, out if encoder else into, 3, 3)
        if into != out:
            shapes["conv_skip.weight"] = (out, into, 1, 1)
        if attend:
            shapes |= {"attn_qkv.weight": (3 * out, out, 1, 1), "attn_proj.weight": (out, out, 1, 1)}
        return {f"{name}.{part}": shape for part, shape in shapes.items()}

    fourier = {"unet.emb_fourier": width, "logvar_fourier": 128}
    shapes: Shapes = {f"{name}.{part}": (size,) for name, size in fourier.items() for part in ("freqs", "phases")}
    shapes |= {"logvar_linear.weight": (1, 128), "unet.emb_noise.weight": (embedding, width), "unet.out_gain": ()}
    shapes |= {"unet.emb_label.weight": (embedding, classes)} if classes else {}
    for name, kind, into, out, attend in walk("unet", resolution, channels + 1, width, multipliers, blocks, attention):
        shapes |= {f"{name}.weight": (out, into, 3, 3)} if kind == "conv" else block(name, into, out, attend)
    return shapes | {"unet.out_conv.weight": (channels, width * multipliers[0], 3, 3)}


def edm_shapes(
    resolution: int,
    channels: int,
    classes: int,
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: int,
    augment: int = 0,
) -> Shapes:
    """Tensors of EDM's EDMPrecond around a SongUNet of DDPM++ form."""

    def layer(name: str, *shape: int) -> Shapes:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def block(name: str, into: int, out: int, attend: bool) -> Shapes:
        shapes = layer("norm0", into) | layer("conv0", out, into, 3, 3) | layer("affine", out, width * 4)
        shapes |= layer("norm1", out) | layer("conv1", out, out, 3, 3)
        resampled = name.endswith(("down", "up"))
        if into != out or resampled:
            shapes |= layer("skip", out, into, 1, 1)
        if resampled:
            shapes |= {"conv0.resample_filter": (1, 1, 2, 2), "skip.resample_filter": (1, 1, 2, 2)}
        if attend:
            shapes |= layer("norm2", out) | layer("qkv", 3 * out, out, 1, 1) | layer("proj", out, out, 1, 1)
        return {f"{name}.{part}": shape for part, shape in shapes.items()}

    shapes = layer("model.map_layer0", width * 4, width) | layer("model.map_layer1", width * 4, width * 4)
    shapes |= layer("model.map_label", width, classes) if classes else {}
    shapes |= {"model.map_augment.weight": (width, augment)} if augment else {}
    steps = walk("model", resolution, channels, width, multipliers, blocks, attention, last_block_attends=True)
    for name, kind, into, out, attend in steps:
        shapes |= layer(name, width, into, 3, 3) if kind == "conv" else block(name, into, out, attend)
    end = f"model.dec.{resolution}x{resolution}_aux"
    return (
        shapes
        | layer(f"{end}_norm", width * multipliers[0])
        | layer(f"{end}_conv", channels, width * multipliers[0], 3, 3)
    )


def walk(
    unet: str,
    resolution: int,
    channels: int,
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: int,
    last_block_attends: bool = False,
) -> Iterator[tuple[str, str, int, int, bool]]:
    """Name, kind, input and output channels and attention of each step of a U-Net, as both programs lay it out.

    With last_block_attends, of a level's blocks in the decoder the last one alone has attention.
    """
    counts = [width * multiplier for multiplier in multipliers]
    first = width if last_block_attends else counts[0]
    yield f"{unet}.enc.{resolution}x{resolution}_conv", "conv", channels, first, False
    out, skips = first, [first]
    for level, count in enumerate(counts):
        size = resolution >> level
        if level:
            yield f"{unet}.enc.{size}x{size}_down", "block", out, out, False
            skips.append(out)
        for index in range(blocks):
            yield f"{unet}.enc.{size}x{size}_block{index}", "block", out, count, size == attention
            out = count
            skips.append(out)
    for level, count in reversed(list(enumerate(counts))):
        size = resolution >> level
        lowest = level == len(counts) - 1
        for name in ("in0", "in1") if lowest else ("up",):
            yield f"{unet}.dec.{size}x{size}_{name}", "block", out, out, name == "in0"
        for index in range(blocks + 1):
            attend = size == attention and (not last_block_attends or index == blocks)
            yield f"{unet}.dec.{size}x{size}_block{index}", "block", out + skips.pop(), count, attend
            out = count


def filled(shapes: Shapes, size: float = 1.0) -> dict[str, Tensor]:
    """The golden files' rule: tensor i, by sorted names, is size sin(0.37 j + i); resampling filters are [1, 1]."""
    tensors = {}
    for index, name in enumerate(sorted(shapes)):
        values = size * torch.sin(0.37 * torch.arange(math.prod(shapes[name]), dtype=torch.float64) + index)
        tensors[name] = values.reshape(shapes[name]).float()
        if name.endswith("resample_filter"):
            tensors[name] = torch.full(shapes[name], 0.25)
    return tensors


def hash_of(names: Shapes | Mapping[str, Tensor]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def edm2_network(tensors: Mapping[str, Tensor], *, channels_per_head: int = 64, **attributes: Any) -> PersistentModule:
    """EDM2's Precond with these tensors; `attributes` of the Precond itself."""
    fixed = {"resample_filter": [1, 1], "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256}

    def module(name: str) -> nn.Module:
        if name.endswith("fourier"):
            return PersistentModule("MPFourier")
        if name == "unet":
            return PersistentModule("UNet", label_balance=0.5, concat_balance=0.5)
        if f"{name}.emb_gain" in tensors:
            out = tensors[f"{name}.conv_res1.weight"].shape[0]
            heads = out // channels_per_head if f"{name}.attn_qkv.weight" in tensors else 0
            return PersistentModule("Block", **fixed, out_channels=out, num_heads=heads)
        return PersistentModule("MPConv")

    classes = tensors["unet.emb_label.weight"].shape[1] if "unet.emb_label.weight" in tensors else 0
    own = precond_attributes(tensors, "unet", extra=1) | {"label_dim": classes, **attributes}
    return assembled(PersistentModule("Precond", **own), tensors, module)


def edm_network(tensors: Mapping[str, Tensor], **attributes: Any) -> PersistentModule:
    """EDM's EDMPrecond with these tensors."""

    def module(name: str) -> nn.Module:
        if name == "model":
            return PersistentModule("SongUNet", label_dropout=0)
        if f"{name}.conv0.weight" in tensors:
            return PersistentModule("UNetBlock", skip_scale=np.sqrt(0.5), adaptive_scale=False, num_heads=0)
        return PersistentModule("Conv2d")

    classes = tensors["model.map_label.weight"].shape[1] if "model.map_label.weight" in tensors else 0
    own = precond_attributes(tensors, "model", extra=0) | {"label_dim": classes, **attributes}
    return assembled(PersistentModule(own.pop("class_name", "EDMPrecond"), **own), tensors, module)


def precond_attributes(tensors: Mapping[str, Tensor], unet: str, extra: int) -> dict[str, Any]:
    name = max(
        (name for name in tensors if name.startswith(f"{unet}.enc.")),
        key=lambda name: int(name.split(".")[2].split("x")[0]),
    )
    size = int(name.split(".")[2].split("x")[0])
    channels = tensors[f"{unet}.enc.{size}x{size}_conv.weight"].shape[1] - extra
    return {"img_resolution": size, "img_channels": channels, "use_fp16": True, "sigma_data": 0.5}


def assembled(root: nn.Module, tensors: Mapping[str, Tensor], make: Any) -> Any:
    """Modules for all parts of the tensors' names; enc and dec are ModuleDicts, as in the originals."""
    for name, value in tensors.items():
        *parts, last = name.split(".")
        module = root
        for depth, part in enumerate(parts):
            if part not in module._modules:
                path = ".".join(parts[: depth + 1])
                module.add_module(part, nn.ModuleDict() if part in ("enc", "dec") else make(path))
            module = module._modules[part]
        if last in ("freqs", "phases", "resample_filter"):
            module.register_buffer(last, value)
        else:
            module.register_parameter(last, nn.Parameter(value, requires_grad=False))
    return root


def edm2_file(path: Path, network: nn.Module, encoder: Persistent | None = None) -> Path:
    """A snapshot as EDM2's training writes it."""
    loss = Persistent("EDM2Loss", P_mean=-0.4, P_std=1.0, sigma_data=0.5)
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="images.zip", use_labels=True)
    encoder = encoder or Persistent("StandardRGBEncoder")
    return dump(EasyDict(encoder=encoder, dataset_kwargs=data, loss_fn=loss, ema=network), path)


def stability_encoder() -> Persistent:
    """EDM2's encoder of latents with its own constants."""
    scale = np.float32(0.5) / np.float32([4.17, 4.62, 3.71, 3.28])
    bias = np.float32(0) - np.float32([5.81, 3.25, 0.12, -2.15]) * scale
    return Persistent("StabilityVAEEncoder", vae_name="an/autoencoder", scale=scale, bias=bias, batch_size=8, _vae=None)
