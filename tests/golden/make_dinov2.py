"""Remakes dinov2.json: what the original DINOv2 answers on weights and images that are made here.

With github.com/facebookresearch/dinov2 at b8931f7 and Pillow beside torch; it resizes the images by Pillow:
    PYTHONPATH=PATH/TO/dinov2 python tests/golden/make_dinov2.py > tests/golden/dinov2.json

tests/evaluation/test_dinov2.py imports the recipes below and holds our extractor against the figures.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from make_inception import chaotic, pictures, summary

SIDES = (32, 350)
"""Enlarged and reduced to 224 pixels."""
WIDTH, DEPTH, HEADS, SIDE, PATCH = 32, 2, 2, 518, 14
"""A small network with the positions of the large one: 37 x 37 patches."""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def filled(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights under the original's names, all of which matter: tensor i of the sorted names follows from chaotic(n, i).

    Layers have variance 1 over their inputs; norms and scales 1 + 0.2 c, biases 0.1 c, tokens and positions c.
    """
    state = {}
    for index, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        wave = chaotic(shape.numel(), index).reshape(shape)
        if name.endswith(("gamma", "norm1.weight", "norm2.weight", "norm.weight")):
            wave = 1 + 0.2 * wave
        elif name.endswith("bias"):
            wave = 0.1 * wave
        elif name.endswith("weight"):
            wave = wave * math.sqrt(2 / shape[1:].numel())
        state[name] = wave.float()
    return state


def published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same under the names that facebook/dinov2-large has on the Hugging Face hub."""
    names = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inner = {
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    result = {}
    for name, value in state.items():
        if not name.startswith("blocks."):
            known = name if name in names else name.rsplit(".", 1)[0]
            result[name.replace(known, names[known], 1)] = value
            continue
        _, block, rest = name.split(".", 2)
        place = f"encoder.layer.{block}"
        if rest.startswith("attn.qkv."):
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{place}.attention.attention.{part}.{rest.rsplit('.', 1)[1]}"] = third.clone()
            continue
        for old, new in inner.items():
            rest = rest.replace(old, new)
        result[f"{place}.{rest}"] = value
    return result


def prepared(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] at 224 pixels by Pillow, and normalised; float64."""
    channels = [
        [np.asarray(Image.fromarray(channel.numpy().astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC))]
        for image in images
        for channel in image
    ]
    pixels = np.concatenate(channels).reshape(len(images), 3, 224, 224).astype(np.float64) / 255
    return torch.from_numpy((pixels - MEAN[:, None, None]) / STD[:, None, None])


def main() -> None:
    from dinov2.models.vision_transformer import DinoVisionTransformer  # type: ignore[import-not-found]

    model = DinoVisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        init_values=1.0,
        block_chunks=0,
    )
    model.load_state_dict(filled({name: value.shape for name, value in model.state_dict().items()}))
    model.double().eval()
    golden: dict[str, object] = {
        "made_by": "github.com/facebookresearch/dinov2 at b8931f7, float64; make_dinov2.py",
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
    }
    with torch.no_grad():
        for side in SIDES:
            golden[str(side)] = [summary(row) for row in model(prepared(pictures(side)))]
        positions = model.interpolate_pos_encoding(torch.zeros(1, 257, WIDTH).double(), 224, 224)
    golden["positions"] = summary(positions)
    json.dump(golden, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
