"""`scm init`: parameters for one's own images, with which `scm run` ends within some minutes."""

import argparse
import os
import sys
from pathlib import Path

from scm.base.project import find_root
from scm.commands.arguments import command, minutes, whole


def add(commands: argparse._SubParsersAction) -> None:
    summary = "write params.yaml for your own images, so that `scm run` ends within some minutes on this machine"
    examples = (
        "scm init --images ~/pictures --minutes 60",
        "scm init --images digits --minutes 15",
        "scm init --images data/raw/photos.zip --minutes 180 --resolution 32",
    )
    init = command(commands, "init", _init, summary, *examples)
    told = "a folder, .zip, .tar, Parquet files or WebDataset shards; digits = the built-in ones"
    init.add_argument("--images", required=True, type=Path, metavar="PATH", help=told)
    init.add_argument("--minutes", required=True, type=minutes, metavar="M", help="minutes that `scm run` may take")
    init.add_argument("--resolution", type=whole, metavar="R", help="pixels on a side; default: by images and time")
    told = "GPU hours that the run may take at most, on all of runtime.processes' GPUs together"
    init.add_argument("--gpu-hours", type=minutes, metavar="H", help=told)
    init.add_argument("--no-labels", action="store_true", help="train without classes")
    init.add_argument("--dry-run", action="store_true", help="print the choices and write nothing")


def _init(options: argparse.Namespace) -> int:
    from scm.presets.apply import apply
    from scm.timebox.box import boxed

    root = find_root()
    allowed = options.minutes if options.gpu_hours is None else _within(root, options.minutes, options.gpu_hours)

    def say(text: str) -> None:
        print(f"scm init: {text}", file=sys.stderr, flush=True)

    box = boxed(root, options.images, allowed, options.resolution, not options.no_labels, say)
    print("\n".join([*box.choices, "", *box.prediction, "", *box.outlook]))
    if (busy := os.getloadavg()[0]) > 0.5 * (os.cpu_count() or 1):
        say(f"other work keeps this machine busy (load {busy:.1f}), so these times include it")
    if options.dry_run:
        return 0
    apply(root / "params.yaml", root, box.plan.preset, further=box.plan.values)
    print(f"\nparams.yaml is written, on the preset {box.plan.preset}. Next: scm run")
    return 0


def _within(root: Path, asked: float, hours: float) -> float:
    """The minutes that so many GPU hours leave of those that were asked for."""
    from scm.build.models import device_of
    from scm.errors import UserError
    from scm.params import load

    runtime = load(root / "params.yaml").runtime
    if device_of(runtime) != "cuda":
        raise UserError("--gpu-hours: torch finds no GPU here, or runtime.device is cpu: leave it out")
    return min(asked, hours * 60 / runtime.processes)
