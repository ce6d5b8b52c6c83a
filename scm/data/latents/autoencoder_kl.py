"""diffusers' AutoencoderKL, such as sd-vae-ft-mse; only this file needs the extra `latents`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scm.errors import UserError

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention layers, old to new; files of diffusers before 0.18, such as sd-vae-ft-mse, have the old."""


class KLAutoencoder(nn.Module):
    """Encoder and decoder of latents with `channels` channels, each latent for `reduction` pixels on a side."""

    def __init__(self, vae: Any, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.vae = vae
        self.channels = int(config["latent_channels"])
        self.reduction = 2 ** (len(config["block_out_channels"]) - 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] to means and standard deviations [B, 2 C, H / 8, W / 8], float32."""
        latents = self.vae.encode(pixels).latent_dist
        return torch.cat([latents.mean.float(), (latents.logvar.float() / 2).exp()], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors as diffusers does now, and makes the attention's 1x1 convolutions matrices."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if "attentions" in parts and len(parts) > 1:
            parts[-2] = OLD_NAMES.get(parts[-2], parts[-2])
            matrix = parts[-1] == "weight" and any(part.startswith("to_") for part in parts)
            tensor = tensor.flatten(1) if matrix else tensor
        renamed[".".join(parts)] = tensor
    return renamed


def kl_autoencoder(tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> KLAutoencoder:
    """The module with this configuration and these tensors; errors name their `source`.

    Raises:
        UserError: diffusers is not installed, or they are not an AutoencoderKL's.
    """
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        remedy = "run `pip install -e '.[latents]'`"
        raise UserError(f"codec.name: this autoencoder needs diffusers ({error}): {remedy}") from None
    try:
        vae: Any = AutoencoderKL.from_config(dict(config))
        vae.load_state_dict(tensors)
        return KLAutoencoder(vae, vae.config)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        problem = str(error).strip().splitlines()[-1].strip()[:200]
        raise UserError(f"{source}: configuration and weights are not one AutoencoderKL's ({problem})") from None
