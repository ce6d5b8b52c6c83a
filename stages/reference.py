"""Stage `reference`: trains the feature extractor on the real images and keeps their statistics.

Reads data/shards; writes data/reference and results/metrics/reference.json.
"""

from scm.build import device_of
from scm.data.shards import read_images, read_index
from scm.data.transforms import augment
from scm.evaluation.features import ExtractorSettings
from scm.evaluation.reference import build
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    block = stage.params.reference
    settings = ExtractorSettings(
        width=block.width,
        features=block.features,
        epochs=block.epochs,
        batch=block.batch,
        lr=block.lr,
        held_out=block.held_out,
    )
    shards = stage.root / "data" / "shards"
    images, labels = read_images(shards)
    reference = build(
        images,
        labels,
        read_index(shards)["classes"],
        settings,
        seed=stage.params.seed,
        augment=augment,
        device=device_of(stage.params.runtime),
        progress=stage.progress,
    )
    reference.save(stage.root / "data" / "reference")
    stage.metrics(
        "reference",
        {
            "held_out_accuracy": reference.held_out_accuracy,
            "fd_floor": reference.floor,
            "features": settings.features,
            "images": len(images),
        },
    )


if __name__ == "__main__":
    main(run, "reference")
