"""What a step of each method costs beside sCD's: `python -m benchmarks.methods [--preset digits-methods] [--rounds 9]`.

Each method of the preset takes steps of its objective, backward pass and optimiser, on random images with one thread.
The methods take turns in each round, so that other load meets all of them. Printed are the least CPU seconds of all
rounds as a multiple of sCD's, and beside it the median over the rounds of the same ratio, which other load spreads. The
inverse of the first is the share of sCD's images that cost as much as sCD's training:
pipelines/studies/methods.yaml takes half of that share for each method. KD and DMD are left out: one of many of their
steps solves trajectories, which the least seconds would not show.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.step_cost import preset_params
from scm.base.tables import markdown_table
from scm.build.models import network_settings, new_model, new_student
from scm.build.training import student_objective
from scm.networks.magnitude import fix_weights
from scm.objectives.protocol import Batch
from scm.params import Params

STEPS = 4
"""Steps of each method in a round."""


def step_of(params: Params, method: str) -> Callable[[], None]:
    """A step of the method's training, from an untrained teacher, past all warm-ups."""
    network = network_settings(params.network, 10 if params.data.labels else 0, params.shape, params.teacher.augment)
    teacher = new_model(network, params.teacher, params.seed).eval().requires_grad_(False)
    settings = params.student.method(method)
    student = new_student(teacher, settings, params.seed).train()
    objective, auxiliary = student_objective(method, settings, params.sampler, teacher, params.seed)
    fix_weights(teacher)
    trained = nn.ModuleList([student, *([auxiliary.module] if auxiliary else [])])
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-5)
    draws = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(settings.batch, *params.shape) * 0.5, torch.arange(settings.batch) % 10, draws)

    def step() -> None:
        optimizer.zero_grad()
        objective(student, batch, settings.images).value.mean().backward()
        optimizer.step()

    return step


def cost_of(step: Callable[[], None]) -> float:
    """CPU seconds of a step."""
    before = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - before) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits-methods")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = preset_params(options.preset)
    found = [name for name in params.student.methods if not hasattr(params.student.method(name).own, "trajectories")]
    steps = {method: step_of(params, method) for method in found}
    for step in steps.values():
        step()  # the first is slow
    rounds = [{method: cost_of(step) for method, step in steps.items()} for _ in range(options.rounds)]
    least = {method: min(each[method] for each in rounds) for method in steps}
    rows = []
    for method in steps:
        cost = least[method] / least["scd"]
        ratio = statistics.median(each[method] / each["scd"] for each in rounds)
        rows.append([method, f"{1000 * least[method]:.0f}", f"{cost:.2f}", f"{ratio:.2f}", f"{1 / cost:.2f}"])
    print(
        markdown_table(
            ("method", "CPU ms a step", "beside sCD", "median of rounds", "images for sCD's cost"), rows, align="lrrrr"
        )
    )


if __name__ == "__main__":
    main()
