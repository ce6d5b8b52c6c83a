"""Post-hoc EMA: averages of several lengths and guidance scales, measured on the same seeds; the best is kept."""

import csv
from pathlib import Path

from scm import build, weights
from scm.data.autoencoders import load_codec
from scm.evaluation.reference import load
from scm.files import replacing, write_json
from scm.results import progress_path
from scm.selection import Figures, Measured, Selection, chosen
from scm.stage import Stage, main
from scm.training.distributed import Ranks


def run(stage: Stage) -> None:
    params, model, ranks = stage.params, str(stage.item), Ranks.join(build.device_of(stage.params.runtime))
    reference = load(stage.root / "data/reference", ranks.device)
    codec, snapshots = load_codec(stage.root / "data/codec", ranks.device), stage.root / f"models/{model}/snapshots"
    known = Measured(stage.work / "measured.jsonl", ranks)
    selection = Selection(params, reference, codec, snapshots, ranks, stage.progress, known)
    lengths = params.select.sigma_rel
    state, header, rows = selection.best(lengths.teacher if model == "teacher" else lengths.student)
    choice = chosen(rows)
    progress = list(selection.progress(header, choice))
    if ranks.rank == 0:
        sampling = {key: header.pop(key) for key in ("guidance_scale", "t_mid") if key in header}
        write_json(stage.root / f"models/{model}" / build.SAMPLING, sampling)
        weights.save(stage.root / f"models/{model}/model.safetensors", state, header)
        write(stage.root / f"results/curves/select-{model}.csv", rows)
        write(progress_path(stage.root, model), progress)
        stage.metrics(f"select-{model}", choice)
    ranks.leave()


def write(path: Path, rows: list[Figures]) -> None:
    """Rows as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(run, "select_ema", matrix=True, parallel=True)
