"""Stage `reference`: the feature extractor, trained here or given, and what it says of the real images.

Reads data/shards; writes data/reference and results/metrics/reference.json. Several processes share the images.
"""

import time
from pathlib import Path

from scm.base.distributed import Ranks
from scm.base.files import read_json, write_json
from scm.build.models import classifier_settings, device_of
from scm.data.shards.shards import read_images, read_index
from scm.data.sources.transforms import augment
from scm.evaluation import extractors, statistics
from scm.evaluation.extractors.base import Extractor, verify
from scm.evaluation.extractors.classifier import FILE, TURNS, Task, load_classifier, train_classifier
from scm.evaluation.measuring import collect, measure
from scm.evaluation.reference import build
from scm.evaluation.statistics import Statistics
from scm.pipeline.stage import Stage, main

KINDS: dict[str, statistics.Kind] = {"inception": "fid", "dinov2": "fd_dinov2"}
"""What EDM2's file of statistics calls an extractor's distance."""
TAUGHT = "classifier.json"


def run(stage: Stage) -> None:
    block, shards = stage.params.reference, stage.root / "data/shards"
    ranks = Ranks.apart(device_of(stage.params.runtime))
    stage.work.mkdir(parents=True, exist_ok=True)
    taught: dict[str, float | str] = {}
    if block.extractor == "classifier":
        extractor, taught = classifier(stage, shards, ranks)
    else:
        resolution = read_index(shards)["resolution"]
        place = stage.root, resolution, ranks.device
        extractor = extractors.read(block.extractor, str(block.weights), block.sha256, *place)
    others = given_statistics(stage, extractor)
    measure(
        extractor,
        shards,
        stage.work,
        seed=stage.params.seed,
        device=ranks.device,
        rank=ranks.rank,
        world=ranks.world,
        progress=stage.progress,
    )
    if ranks.rank:
        return
    real, digest = collect(shards, stage.work, stage.params.seed), block.statistics_sha256
    reference = build(extractor, real, statistics=others, statistics_sha256=digest, **taught)  # type: ignore[arg-type]
    reference.save(stage.root / "data/reference")
    stage.extra["device"] = ranks.device.type
    figures = {"fd_floor": reference.floor, "features": extractor.num_features, "images": len(reference.labels)}
    if reference.held_out_accuracy is not None:
        figures["held_out_accuracy"] = reference.held_out_accuracy
    stage.metrics("reference", figures)


def classifier(stage: Stage, shards: Path, ranks: Ranks) -> tuple[Extractor, dict[str, float | str]]:
    """The classifier, which the first process trains and keeps in the work folder, and how well it does what."""
    weights, told = stage.work / FILE, stage.work / TAUGHT
    if ranks.rank == 0 and not told.exists():
        classes = read_index(shards)["classes"]
        task: Task = "class" if len(classes) > 1 else "rotation"
        model, reached = train_classifier(
            *read_images(shards),
            classifier_settings(stage.params),
            task=task,
            outputs=len(classes) if task == "class" else TURNS,
            seed=stage.params.seed,
            augment=augment,
            device=ranks.device,
            progress=stage.progress,
        )
        stage.progress(f"classifier: {reached:.1%} of the held-out images right ({task})")
        model.save(stage.work)
        write_json(told, {"task": task, "held_out_accuracy": reached})
    while not told.exists():
        time.sleep(0.5)
    return load_classifier(weights).to(ranks.device), read_json(told)


def given_statistics(stage: Stage, extractor: Extractor) -> Statistics | None:
    """Those of `reference.statistics`."""
    block = stage.params.reference
    if block.statistics is None:
        return None
    path = extractors.located("reference.statistics", block.statistics, block.statistics_sha256, stage.root)
    verify(path, block.statistics_sha256, "reference.statistics_sha256")
    return statistics.read(path, KINDS.get(block.extractor), extractor.num_features)


if __name__ == "__main__":
    main(run, "reference", parallel=True)
