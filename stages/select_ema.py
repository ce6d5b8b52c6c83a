"""Post-hoc EMA: averages of several lengths and guidance scales, measured on the same seeds; the best is kept."""

import csv
from pathlib import Path

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.files import replacing, write_json
from scm.build import models, sampling
from scm.data.latents.autoencoders import load_codec
from scm.evaluation.reference import load_reference
from scm.evaluation.selection import Figures, Measured, chosen
from scm.generation import trained
from scm.pipeline.stage import Stage, main
from scm.results.reading import progress_path


def run(stage: Stage) -> None:
    params, model, ranks = stage.params, str(stage.item), Ranks.join(models.device_of(stage.params.runtime))
    reference = load_reference(stage.root / "data/reference", ranks.device)
    codec, snapshots = load_codec(stage.root / "data/codec", ranks.device), stage.root / f"models/{model}/snapshots"
    known = Measured(stage.work / "measured.jsonl", ranks)
    selection = sampling.selection(params, reference, codec, snapshots, ranks, stage.progress, known)
    lengths = params.select.sigma_rel
    state, header, rows = selection.best(lengths.teacher if model == "teacher" else lengths.student)
    choice = chosen(rows)
    progress = list(selection.progress(header, choice))
    if ranks.rank == 0:
        how = {key: header.pop(key) for key in ("guidance_scale", "t_mid") if key in header}
        write_json(stage.root / f"models/{model}" / trained.SAMPLING, how)
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
