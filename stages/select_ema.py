"""Post-hoc EMA: measures averages of several lengths, sampled in several ways, with the same seeds; keeps the best."""

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.files import write_csv, write_json
from scm.base.project import TEACHER
from scm.build import models, sampling
from scm.build.given import guide_of
from scm.data.latents.autoencoders import load_codec
from scm.ema.reconstruct import verify
from scm.evaluation.by_time import distances_by_time
from scm.evaluation.candidates import chosen
from scm.evaluation.reference import load_reference
from scm.evaluation.selection import Measured
from scm.generation import trained
from scm.generation.sampler import t_max_of
from scm.pipeline.stage import Stage, main
from scm.results.reading import by_time_path, progress_path


def run(stage: Stage) -> None:
    params, model, ranks = stage.params, str(stage.item), Ranks.join(models.device_of(stage.params.runtime))
    snapshots = stage.root / f"models/{model}/snapshots"
    ranks.first(lambda: verify(snapshots))
    reference = load_reference(stage.root / "data/reference", ranks.device)
    codec = load_codec(stage.root / "data/codec", ranks.device)
    # Find the length, and for each number of steps the guidance scale and t_mid, with the smallest distance; distances
    # in `known` are not measured again.
    known = Measured(stage.work / "measured.jsonl", ranks)
    guide, origin = guide_of(stage.root, params, snapshots) if model == TEACHER else (None, {})
    stage.extra |= {"given": origin} if origin else {}
    selection = sampling.selection(params, reference, codec, snapshots, ranks, stage.progress, known, guide)
    lengths = params.select.sigma_rel
    state, header, rows = selection.best(lengths.teacher if model == TEACHER else lengths.student)
    choice = chosen(rows)
    # Measure the chosen setting at earlier snapshots too, which shows the training's progress.
    progress = list(selection.progress(header, choice))
    # Measure from where along t the chosen weights bring images back badly.
    t_max = t_max_of(params.sampler.sigma_max, header["sigma_d"])
    by_time = list(distances_by_time(selection, stage.root / "data/latents", state, header, t_max))
    if ranks.rank == 0:
        # The choice of sampling has a file of its own, so that another choice leaves the weights' hash alone.
        write_json(stage.root / f"models/{model}" / trained.SAMPLING, header.pop("sampling"))
        weights.save(stage.root / f"models/{model}/model.safetensors", state, header)
        write_csv(stage.root / f"results/curves/select-{model}.csv", rows)
        write_csv(progress_path(stage.root, model), progress)
        write_csv(by_time_path(stage.root, model), by_time)
        stage.figures(choice)
    ranks.leave()


if __name__ == "__main__":
    main(run, "select_ema", matrix=True, parallel=True)
