"""Trains or reads the feature extractor, and measures the real images' statistics with it.

Reads data/shards; writes data/reference. Several processes share the images.
"""

from typing import Any

from scm.base.distributed import Ranks
from scm.base.registry import part
from scm.build.models import device_of
from scm.data.shards.shards import HELD_OUT, held_out_of, read_index
from scm.evaluation.extractor import EXTRACTORS, read_extractor
from scm.evaluation.measuring import collect, measure
from scm.evaluation.reference import build_reference
from scm.evaluation.statistics import Statistics, read_statistics
from scm.evaluation.weight_files import GivenWeights, located, verify
from scm.pipeline.ranks import own_threads
from scm.pipeline.stage import Stage, main


def run(stage: Stage) -> None:
    block, shards = stage.params.reference, stage.root / "data/shards"
    ranks, kind = Ranks.apart(device_of(stage.params.runtime)), part(EXTRACTORS, block.extractor)
    stage.work.mkdir(parents=True, exist_ok=True)
    # Train the extractor on these images, or read the given one.
    taught: dict[str, Any] = {}
    if hasattr(kind, "train_extractor"):
        settings = getattr(block, block.extractor).model_dump()
        extractor, taught = kind.train_extractor(settings, shards, stage.work, block.seed, ranks, stage.progress)
    else:
        resolution = read_index(shards)["resolution"]
        given = GivenWeights(str(block.weights), block.sha256, stage.root, resolution, ranks.device)
        extractor = read_extractor(block.extractor, given)
    # Refuse unusable statistics before the long pass over the images.
    statistics = given_statistics(stage, kind.EDM2_STATISTICS, extractor.num_features)
    threads = own_threads(stage.params.runtime.threads)
    aside, aside_work = held_out_of(shards), stage.work / HELD_OUT
    measure(extractor, shards, stage.work, block.seed, ranks, stage.progress, threads)
    if aside is not None:
        aside_work.mkdir(exist_ok=True)
        measure(extractor, aside, aside_work, block.seed, ranks, stage.progress, threads)
    if ranks.rank:
        return
    # Only the first process puts the parts together.
    real, digest = collect(shards, stage.work, block.seed), block.statistics_sha256
    unseen = None if aside is None else collect(aside, aside_work, block.seed)
    given = {"statistics": statistics, "statistics_sha256": digest, "unseen": unseen}
    reference = build_reference(extractor, real, **given, **taught)
    reference.save(stage.root / "data/reference")
    stage.extra["device"] = ranks.device.type
    figures: dict[str, float] = {"features": extractor.num_features, "images": len(reference.labels)}
    if unseen is not None:
        figures["held_out"] = len(unseen.labels)
    if reference.held_out_accuracy is not None:
        figures["held_out_accuracy"] = reference.held_out_accuracy
    stage.figures(figures)


def given_statistics(stage: Stage, kind: str | None, features: int) -> Statistics | None:
    """The statistics in the file that `reference.statistics` names, if it names one.

    Args:
        kind: name of the extractor's distance in EDM2's files.
        features: length of the extractor's feature vectors.
    """
    block = stage.params.reference
    if block.statistics is None:
        return None
    path = located("reference.statistics", block.statistics, block.statistics_sha256, stage.root)
    verify(path, block.statistics_sha256, "reference.statistics_sha256")
    return read_statistics(path, kind, features)


if __name__ == "__main__":
    main(run, "reference", parallel=True)
