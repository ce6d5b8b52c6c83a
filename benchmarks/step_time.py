"""Time of a training step: `python benchmarks/step_time.py [--batch 128] [--repeats 9] [--device cpu]`.

Per resolution and network size, the median ms of a diffusion step (the teacher's), an sCT and an sCD step, each
forward and backward, and their ratios to the diffusion step. `split` is sCD as it is usually written, a torch.func.jvp
without gradient and then a forward with it, timed in the same run.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from scm import trigflow
from scm.machine import machine_name
from scm.networks import Model, NetworkSettings
from scm.objectives import Batch, ConsistencyDistillation, ConsistencyTraining, Diffusion, Losses
from scm.objectives.consistency import normalized
from scm.objectives.diffusion import diffused
from scm.stage import MALLOC

SIZES = {8: (12, 16, 32), 16: (12, 16, 32), 32: (12, 16, 32)}
"""Widths at each resolution; multipliers 1, 2."""


class SplitDistillation(ConsistencyDistillation):
    """The same loss with the tangent from torch.func.jvp and a second forward."""

    def __call__(self, model: Model, batch: Batch, images_seen: int) -> Losses:
        sigma_d, labels = self.sigma_d, batch.labels
        x_t, v_t, t = diffused(batch, self.p_mean, self.p_std, sigma_d)
        direction = self.direction(x_t, t, labels, v_t)
        cos, sin = trigflow.per_sample(torch.cos(t), x_t), trigflow.per_sample(torch.sin(t), x_t)
        along = (cos * sin * direction / sigma_d, torch.cos(t) * torch.sin(t))
        with torch.no_grad():
            value, scaled = torch.func.jvp(lambda x, time: model(x, time, labels), (x_t / sigma_d, t), along)[:2]
            g = -(cos**2) * (sigma_d * value - direction) - (cos * sin * x_t + sigma_d * scaled)
            g = normalized(g, self.tangent_norm_c)
        output, weight = model(x_t / sigma_d, t, labels), model.log_weight(t)
        squared = (output - value - g).flatten(1).square().mean(dim=1)
        return Losses(weight.exp() * squared - weight, t)


def median_ms(step: Callable[[], None], repeats: int, device: torch.device) -> float:
    times = []
    for number in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def measure(
    resolution: int, width: int, batch: int, repeats: int, device: torch.device
) -> tuple[int, dict[str, float]]:
    """Parameters of the network and the median ms of each kind of step."""
    settings = NetworkSettings(
        resolution=resolution, channels=1, classes=10, width=width, multipliers=(1, 2), blocks=1,
        attention=(resolution // 2,) if resolution == 8 else (), channels_per_head=width,
    )  # fmt: skip
    torch.manual_seed(0)
    model, teacher = Model(settings).to(device), Model(settings).to(device).requires_grad_(False)
    x_0 = torch.randn(batch, 1, resolution, resolution, device=device) * 0.5
    labels = torch.arange(batch, device=device) % 10
    common = {"sigma_d": 0.5, "p_mean": -1.0, "p_std": 1.4, "tangent_norm_c": 0.1, "tangent_warmup": 0}
    objectives = {
        "diffusion": Diffusion(0.5, -0.8, 1.6),
        "sct": ConsistencyTraining(**common),
        "scd": ConsistencyDistillation(**common, teacher=teacher),
        "split": SplitDistillation(**common, teacher=teacher),
    }

    def step(name: str) -> None:
        model.zero_grad(set_to_none=True)
        draws = torch.Generator(device).manual_seed(0)
        objectives[name](model, Batch(x_0, labels, draws), 1000).value.mean().backward()

    times = {name: median_ms(lambda name=name: step(name), repeats, device) for name in objectives}
    return sum(p.numel() for p in model.parameters()), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolutions", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):  # as the training stages start themselves
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    print(
        f"{machine_name()}; torch {torch.__version__}, {torch.get_num_threads()} threads; batch {options.batch}; ms\n"
    )
    print(
        "| pixels | parameters | diffusion | sCT | sCD | sCD split | sCT / diffusion | sCD / diffusion | split / sCD |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for resolution in options.resolutions:
        for width in SIZES[resolution]:
            count, ms = measure(resolution, width, options.batch, options.repeats, torch.device(options.device))
            ratios = (ms["sct"] / ms["diffusion"], ms["scd"] / ms["diffusion"], ms["split"] / ms["scd"])
            cells = [f"{ms[name]:.0f}" for name in ("diffusion", "sct", "scd", "split")] + [f"{r:.2f}" for r in ratios]
            print(f"| {resolution}×{resolution} | {count:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
