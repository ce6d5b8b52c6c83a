"""Post-hoc EMA: reconstructs averages of several lengths, measures each on the same seeds and keeps the best."""

import csv
from pathlib import Path

from scm import build, weights
from scm.data.autoencoders import load_codec
from scm.evaluation.reference import load
from scm.files import replacing
from scm.results import progress_path
from scm.selection import Figures, Selection
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    params, model, device = stage.params, str(stage.item), build.device_of(stage.params.runtime)
    reference = load(stage.root / "data/reference", device)
    codec, snapshots = load_codec(stage.root / "data/codec", device), stage.root / f"models/{model}/snapshots"
    selection = Selection(params, reference, codec, snapshots, device, stage.progress)
    lengths = params.select.sigma_rel
    state, header, rows = selection.best(lengths.teacher if model == "teacher" else lengths.student)
    weights.save(stage.root / f"models/{model}/model.safetensors", state, header)
    write(stage.root / f"results/curves/select-{model}.csv", rows)
    choice = min(rows, key=lambda row: row["fd"])
    write(progress_path(stage.root, model), list(selection.progress(header, choice)))
    stage.metrics(f"select-{model}", choice)


def write(path: Path, rows: list[Figures]) -> None:
    """Rows as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(run, "select_ema", matrix=True)
