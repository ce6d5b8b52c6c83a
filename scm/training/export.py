"""From the work folder of a finished run to its outputs."""

import csv
import json
from pathlib import Path

from scm.base.distributed import Ranks
from scm.base.files import link_or_copy, replacing, replacing_folder
from scm.training.loop import METRICS, SNAPSHOTS


def export(work: Path, snapshots: Path, curve: Path, ranks: Ranks) -> None:
    """Copies the snapshots and writes the lines of metrics.jsonl as CSV."""
    if ranks.rank == 0:
        lines = [json.loads(line) for line in (work / METRICS).read_text(encoding="utf-8").splitlines()]
        columns = list(dict.fromkeys(key for line in lines for key in line))
        with replacing(curve) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(lines)
        with replacing_folder(snapshots) as folder:
            for file in sorted((work / SNAPSHOTS).glob("*.safetensors")):
                link_or_copy(file, folder / file.name)
    ranks.wait()
    ranks.leave()
