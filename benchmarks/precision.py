"""How precise a tangent is in each type: `python benchmarks/precision.py [--device cpu]`.

The table holds relative errors against float64 of F, of its tangent cos t sin t dF/dt and of alg. 1's g.
Samples lie at times of the paper's proposal; networks have random weights and dropout, with one mask for all types.
"""

import argparse

import torch

from scm.base.precision import DTYPES
from scm.networks import Model, NetworkSettings, flavoured
from scm.networks.architectures import names
from scm.objectives.consistency import consistency_tangent
from scm.trigflow import interpolate, per_sample, propose_times, velocity

COLUMNS = ("F", "tangent", "g")


def network(flavour: str, resolution: int) -> Model:
    """A network of two levels with attention, 32 channels, and weights with nothing at its zero start."""
    settings = NetworkSettings(
        resolution=resolution, channels=3, classes=10, width=32, multipliers=(1, 2), blocks=1,
        attention=(resolution // 2,), channels_per_head=32, **flavoured(flavour),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Model(settings, dropout=0.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
            elif name.endswith(("conv1.weight", "proj.weight", "out_conv.weight")) and not name.startswith("log"):
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.train()


def errors(flavour: str, device: str = "cpu", batch: int = 64, resolution: int = 16) -> dict[str, dict[str, float]]:
    """For each precision the relative error of F, its tangent and g: ||x - x_64|| / ||x_64|| over the batch."""
    model, draws = network(flavour, resolution).to(device).double(), torch.Generator().manual_seed(1)
    shape = (2, batch, 3, resolution, resolution)
    x_0, z = (torch.randn(shape, generator=draws, dtype=torch.float64) * 0.5).to(device)
    t = propose_times(torch.randn(batch, generator=draws, dtype=torch.float64), -1.0, 1.4, 0.5).to(device)
    x_t, v_t = interpolate(x_0, z, t), velocity(x_0, z, t)
    labels = torch.arange(batch, device=device) % 10

    def found(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(2)  # one dropout mask for all types
        x, time, direction = x_t.to(dtype), t.to(dtype), v_t.to(dtype)
        tangent = consistency_tangent(lambda x, t: model(x, t, labels), x, time, time, direction, 0.5, r=1.0)
        network_part = tangent.second.double() + per_sample(torch.cos(t) * torch.sin(t), x_t) * x_t
        return tangent.output.detach().double(), network_part, tangent.g.double()

    exact, table = found(torch.float64), {}
    model.float()
    for name, precision in DTYPES.items():
        model.precision = precision
        pairs = zip(COLUMNS, found(torch.float32), exact, strict=True)
        table[name] = {column: float((ours - true).norm() / true.norm()) for column, ours, true in pairs}
    return table


def main() -> None:
    from scm.results.provenance import machine_name

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    print(f"{machine_name()}, {options.device}; torch {torch.__version__}\n")
    print("| network | precision | F | tangent | g |\n|---|---|---|---|---|")
    for flavour in (f"{name}{ending}" for name in names() for ending in ("", "-trigflow")):
        for name, row in errors(flavour, options.device).items():
            print(f"| {flavour} | {name} | {' | '.join(f'{row[column]:.1e}' for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
