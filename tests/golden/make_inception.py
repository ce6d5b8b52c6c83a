"""Remakes inception.json: what torch-fidelity 0.4.0's own network answers on weights and images that are made here.

In a throw-away environment with torch and `pip install --no-deps torch-fidelity` (what it imports of torchvision is not
needed by the network and left out here): python tests/golden/make_inception.py > tests/golden/inception.json

tests/evaluation/test_inception.py imports the two recipes below and holds our network against the figures.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import sys
import tempfile
import types
from collections.abc import Iterable
from pathlib import Path

import torch

SIDES = (32, 299, 350)
"""Enlarged, as it is, and reduced."""


def chaotic(count: int, start: int) -> torch.Tensor:
    """sin(2 pi r / 1,000,003) for r = (7919 j^2 + 104,729 start) mod 1,000,003, j = 0, 1, ...; float64 [count]."""
    j = torch.arange(count)
    return torch.sin((7919 * j * j + 104_729 * start) % 1_000_003 * (2 * math.pi / 1_000_003))


def filled(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Weights under which features neither vanish nor explode: tensor i of the sorted names follows from chaotic(n, i).

    Convolutions have He's variance; means 0.1 c, variances 1 + 0.5 c, gains 1 + 0.2 c, offsets 0.1 c.
    """
    state = {}
    names = [name for name in sorted(shapes) if not name.endswith("num_batches_tracked")]
    for index, name in enumerate(names):
        shape = shapes[name]
        wave = chaotic(shape.numel(), index).reshape(shape)
        if len(shape) > 1:
            wave = wave * (2 / math.sqrt(shape[1:].numel()))
        elif name.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif name.endswith("weight"):
            wave = 1 + 0.2 * wave
        else:
            wave = 0.1 * wave
        state[name] = wave.float()
    return state


def keys_sha256(names: Iterable[str]) -> str:
    """Of the sorted names, joined by newlines, without the counts of training steps."""
    kept = sorted(name for name in names if not name.endswith("num_batches_tracked"))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def pictures(side: int) -> torch.Tensor:
    """Noise, and ramps in three directions: uint8 [2, 3, side, side]."""
    j = torch.arange(3 * side * side).reshape(3, side, side)
    noise = (j * j * 7919 + j * 104_729) % 1_000_003 % 256
    channel, y, x = torch.meshgrid(torch.arange(3), torch.arange(side), torch.arange(side), indexing="ij")
    ramps = (5 * x + 3 * y * (channel + 1) + 60 * channel) % 256
    return torch.stack([noise, ramps]).to(torch.uint8)


def summary(values: torch.Tensor) -> dict[str, object]:
    flat = values.double().flatten()
    every = flat[:: max(1, len(flat) // 16)][:16]
    return {"every": every.tolist(), "mean": flat.mean().item(), "std": flat.std().item(), "l2": flat.norm().item()}


def main() -> None:
    found = importlib.util.find_spec("torch_fidelity")
    assert found and found.submodule_search_locations
    package = types.ModuleType("torch_fidelity")  # its __init__ imports the whole program
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["torch_fidelity"] = package
    network = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    resize = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")

    torch.nn.Module.load_state_dict, load = lambda self, state: None, torch.nn.Module.load_state_dict  # type: ignore
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({}, path)
        empty = network("any", ["2048"], feature_extractor_weights_path=path)
        torch.nn.Module.load_state_dict = load  # type: ignore[method-assign]
        shapes = {name: value.shape for name, value in empty.state_dict().items()}
        empty.load_state_dict(filled(shapes), strict=False)
        model = empty.double()
    model.feature_extractor_internal_dtype = torch.float64
    golden: dict[str, object] = {
        "made_by": f"torch-fidelity {importlib.metadata.version('torch-fidelity')}, float64; make_inception.py",
        "keys_sha256": keys_sha256(shapes),
    }
    for side in SIDES:
        images = pictures(side)
        enlarged = resize.interpolate_bilinear_2d_like_tensorflow1x(
            images.double(), size=(299, 299), align_corners=False
        )
        (features,) = model(images)
        golden[str(side)] = {"resized": summary(enlarged), "features": [summary(row) for row in features]}
    json.dump(golden, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
