"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193) through transformers: ViT-L/14's class token, the paper's FD-DINOv2.

The distance is that of Stein et al. 2023 (arXiv 2306.04675) as EDM2 computes it: 224 x 224 pixels, bicubic with
antialias and without clipping, ImageNet's mean and standard deviation, the class token after the final layer norm.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scm.errors import UserError
from scm.evaluation.extractor import Extractor, colour, in_parts
from scm.evaluation.weight_files import GivenWeights, reason, verify

FOLDER, CONFIG, WEIGHTS = "dinov2", "config.json", "model.safetensors"
EDM2_STATISTICS = "fd_dinov2"
PLACE = "data/extractor"
"""Where users keep weights: git ignores this folder, and `make clean` leaves it alone."""
SIDE = 224
"""Pixels on a side of what the network sees."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels in [0, 1]."""
FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "apply_layernorm": True}
"""Entries of config.json that change the features and no weight's shape; params.yaml has no hash of that file."""
OFFSET = 0.1
"""The original program adds this to the number of patches when it computes the scale of `positions_for`."""
BATCH = 32
"""Images in one forward pass; changes the rounding alone."""


class Dinov2(Extractor):
    """Class-token features of a transformers' Dinov2Model, in float32."""

    name = "dinov2"
    preprocessing = "224 x 224 bicubic with antialias; ImageNet's mean and standard deviation; class token"

    def __init__(self, network: nn.Module) -> None:
        """Takes a Dinov2Model whose position embeddings are those of `SIDE` pixels."""
        super().__init__()
        self.network = network
        self.num_features = int(network.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return in_parts(self._features, images, BATCH)

    def _features(self, images: Tensor) -> Tensor:
        x = self.network(pixel_values=prepared(images, next(self.network.parameters()).dtype))
        return x.last_hidden_state[:, 0]

    def save(self, folder: Path) -> list[str]:
        self.network.save_pretrained(folder / FOLDER)  # type: ignore[operator]
        return [f"{FOLDER}/{CONFIG}", f"{FOLDER}/{WEIGHTS}"]


def prepared(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 images [B, 1 or 3, H, W] as the network takes them, [B, 3, 224, 224]."""
    x = functional.interpolate(colour(images).to(dtype), size=(SIDE, SIDE), mode="bicubic", antialias=True) / 255
    mean, std = (torch.tensor(values, dtype=dtype, device=x.device)[:, None, None] for values in (MEAN, STD))
    return (x - mean) / std


def positions_for(positions: Tensor, grid: int) -> Tensor:
    """Interpolates position embeddings [1, 1 + M^2, F] to grid x grid patches, [1, 1 + grid^2, F].

    The original program's bicubic interpolation steps by M / (grid + 0.1) rather than M / grid; transformers' does not.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == grid:
        return positions
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / side
    patches = functional.interpolate(patches.float(), scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def located_folder(weights: str, folder: Path) -> Path:
    """The folder with the model's files.

    Args:
        weights: `reference.weights`.
        folder: the same as a path; where there is no such folder, the name is looked up on the Hugging Face hub, whose
            files are downloaded once into its cache.

    Raises:
        UserError: there is no such folder or name, or a file is missing.
    """
    _transformers()  # which brings the hub's client
    if not folder.is_dir():
        folder = _from_hub(weights)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"reference.weights: {folder / name} is missing: {command(weights)}")
    return folder


def read_dinov2(folder: Path) -> Dinov2:
    """The network of a folder with config.json and model.safetensors; something else in it is a UserError."""
    network = _network(_transformers(), folder)
    grid = SIDE // network.config.patch_size
    embeddings: Any = network.embeddings
    embeddings.position_embeddings = nn.Parameter(positions_for(embeddings.position_embeddings.detach(), grid))
    network.config.image_size = SIDE
    return Dinov2(network)


def read_extractor(given: GivenWeights) -> tuple[Dinov2, str]:
    folder = located_folder(given.weights, given.path)
    digest = verify(folder / WEIGHTS, given.sha256, "reference.sha256")
    return read_dinov2(folder), digest


def load_extractor(folder: Path, resolution: int, device: torch.device | str) -> Dinov2:
    """Reads what `Dinov2.save` wrote; it takes images of any resolution."""
    return Dinov2(_network(_transformers(), folder / FOLDER))


def command(weights: str) -> str:
    """Tells how to download the files of a model by hand."""
    name = weights if weights.count("/") == 1 and not weights.startswith((".", "data/")) else "facebook/dinov2-large"
    download = f"hf download {name} {CONFIG} {WEIGHTS} --local-dir {PLACE}"
    return f"run {download} where there is a network, and write reference.weights: {PLACE}"


def _from_hub(weights: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(weights, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the hub's client raises its HTTP library's own errors, which change with its versions
        problem = f"is no folder here, and the hub does not send it ({reason(error)[:200]})"
        raise UserError(f"reference.weights = {weights} {problem}: {command(weights)}") from None


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError:
        problem = "reference.extractor = dinov2 needs transformers, which is not installed"
        raise UserError(f"{problem}: run pip install -e '.[dinov2]'") from None
    transformers.logging.set_verbosity_error()  # we report missing files ourselves
    transformers.logging.disable_progress_bar()
    return transformers


def _network(transformers: ModuleType, folder: Path) -> Any:
    """The Dinov2Model of a folder, all of whose weights must be there."""
    remedy = "see docs/evaluation.md for the files to use"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["model_type"]
        others = {key: config[key] for key, value in FIXED.items() if config.get(key, value) != value}
        if kind == "dinov2" and others:
            raise UserError(f"{folder / CONFIG} has {others}, which the published networks have not: {remedy}")
        if kind != "dinov2":
            raise UserError(f"{folder / CONFIG} describes a {kind}, not a dinov2: {remedy}")
        network, report = transformers.Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except UserError:
        raise
    except Exception as error:  # transformers and safetensors raise their own for values and files of other kinds
        raise UserError(f"{folder} holds no DINOv2 ({reason(error)}): {remedy}") from None
    absent = sorted(report["missing_keys"])
    if absent:
        raise UserError(f"{folder / WEIGHTS} lacks {absent[0]} and {len(absent) - 1} others: {remedy}")
    return network
