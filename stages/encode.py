"""Image shards to latent shards: what the networks are trained on, encoded once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scm.data.codec import Codec, measured_header, plain_header, require_built
from scm.data.shards import iterate_batches, read_index, write_latents
from scm.stage import Stage, main

BATCH = 256
"""Images encoded at a time; changes no result."""


def run(stage: Stage) -> None:
    settings, shards = stage.params.codec, stage.root / "data/shards"
    require_built(settings.name)
    index = read_index(shards)
    shape = [index["channels"], index["resolution"], index["resolution"]]
    header = plain_header(settings.name, stage.params.network.sigma_d, shape)
    if settings.normalize == "measured":
        header = measured_header(header, (images for _, images, _ in iterate_batches(shards, BATCH)))
    codec = Codec(header)
    shard_images = max(shard["count"] for shard in index["shards"])
    entries = {"classes": index["classes"], "codec": codec.header}
    written = write_latents(encoded(shards, codec), stage.root / "data/latents", shard_images, entries)
    stage.progress(f"{written['count']} images encoded by the codec {settings.name}")
    figures: dict[str, float] = {"images": written["count"]}
    for channel, (mean, std) in enumerate(zip(header["mean"], header["std"], strict=True)):
        figures |= {f"mean_{channel}": mean, f"std_{channel}": std}
    stage.metrics("encode", figures)


def encoded(shards: Path, codec: Codec) -> Iterator[tuple[str, np.ndarray, int]]:
    for keys, images, labels in iterate_batches(shards, BATCH):
        yield from zip(keys, codec.encode(images).numpy(), labels, strict=True)


if __name__ == "__main__":
    main(run, "encode")
