"""Images to WebDataset shards: every image cropped to one square size, with an index of counts, labels and hashes."""

from scm.data.autoencoders import located, weight_files
from scm.data.shards import write_shards
from scm.data.sources import open_source, usable
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    data, codec = stage.params.data, stage.params.codec
    if codec.name != "identity":  # before hours of work that `encode` would refuse
        weight_files(codec.name, located(codec.path, stage.root))
    skipped: list[dict[str, str]] = []
    with open_source(data.source, stage.root / data.path, data.labels, data.max_pixels) as source:
        stage.progress(f"{len(source)} images in {source.name}, {len(source.classes)} classes")
        index = write_shards(
            usable(source, data.resolution, data.channels, data.on_bad_image, skipped),
            stage.root / "data/shards",
            data.shard_images,
            classes=source.classes,
            channels=data.channels,
            resolution=data.resolution,
            skipped=skipped,
        )
    stage.progress(f"{index['count']} images in {len(index['shards'])} shards; {len(skipped)} files left out")
    stage.metrics("prepare", {"images": index["count"], "classes": len(index["classes"]), "skipped": len(skipped)})


if __name__ == "__main__":
    main(run, "prepare")
