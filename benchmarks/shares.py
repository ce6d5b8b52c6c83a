"""The state that the processes divide (`runtime.shard`), counted: `python -m benchmarks.shares`.

GiB of the largest share: Adam's two moments of each parameter, and two averages of the model's.
"""

import torch
from torch import nn

from benchmarks.step_cost import preset_settings
from scm.networks import Model
from scm.training.shares import numbers_kept, owners

PRESETS = ("imagenet512-s", "imagenet512-xl", "imagenet512-xxl")
PROCESSES = (1, 8, 16, 32, 64)


def largest_share(numbers: list[int], world: int) -> int:
    """The most numbers that one of the processes keeps."""
    shares = [0] * world
    for number, owner in zip(numbers, owners(numbers, world), strict=True):
        shares[owner] += number
    return max(shares)


def main() -> None:
    print(f"| network | trained | {' | '.join(map(str, PROCESSES))} |\n|---|---|{'---|' * len(PROCESSES)}")
    for name in PRESETS:
        with torch.device("meta"):
            model, fake = (Model(preset_settings(name)) for _ in range(2))
        for trained, modules in {"alone": [model], "with a fake score": [model, fake]}.items():
            numbers = list(numbers_kept(nn.ModuleList(modules), model, averages=2).values())
            shares = (f"{4 * largest_share(numbers, world) / 2**30:.1f}" for world in PROCESSES)
            print(f"| {name} | {trained} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
