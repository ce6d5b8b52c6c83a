"""Turns the work folder of a finished run into its outputs."""

import json
from pathlib import Path

from scm.base.distributed import Ranks
from scm.base.files import link_or_copy, replacing_folder, write_csv
from scm.training.loop import METRICS, SNAPSHOTS


def export(work: Path, root: Path, model: str, ranks: Ranks) -> None:
    """Writes models/MODEL/snapshots, and metrics.jsonl as results/curves/train-MODEL.csv."""
    if ranks.rank == 0:
        lines = [json.loads(line) for line in (work / METRICS).read_text(encoding="utf-8").splitlines()]
        write_csv(root / f"results/curves/train-{model}.csv", lines)
        with replacing_folder(root / f"models/{model}/snapshots") as folder:
            for file in sorted((work / SNAPSHOTS).glob("*.safetensors")):
                link_or_copy(file, folder / file.name)
    ranks.wait()
    ranks.leave()
