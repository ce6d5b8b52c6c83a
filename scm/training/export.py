"""Turns the work folder of a finished run into its outputs."""

import json
from pathlib import Path

from scm.base.distributed import Ranks
from scm.base.files import link_or_copy, replacing_folder, write_csv, write_sealed
from scm.ema.reconstruct import INDEX
from scm.training.record import METRICS, SNAPSHOTS, Record


def export(record: Record, root: Path, model: str, ranks: Ranks) -> None:
    """Rank 0 writes models/MODEL/snapshots with an index of their hashes, and results/curves/train-MODEL.csv.

    Raises:
        UserError: a snapshot was lost or damaged since it was written.
    """
    ranks.first(lambda: _export(record, root, model))
    ranks.leave()


def _export(record: Record, root: Path, model: str) -> None:
    record.verify()
    lines = [json.loads(line) for line in (record.work / METRICS).read_text(encoding="utf-8").splitlines()]
    write_csv(root / f"results/curves/train-{model}.csv", lines)
    with replacing_folder(root / f"models/{model}/snapshots") as folder:
        for name in sorted(record.snapshots):
            link_or_copy(record.work / SNAPSHOTS / name, folder / name)
        write_sealed(folder / INDEX, {"snapshots": record.snapshots})
