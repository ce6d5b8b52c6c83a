"""Describe the prepared data for people: counts, sizes, skipped files, and a contact sheet."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scm.data.preparation.ingest import Tally
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import tar_members, tar_reader

CONTACT_IMAGES, CONTACT_SIDE = 100, 64
"""Most images on the contact sheet, and most pixels on a side of each."""
LISTED = 20
"""Most skipped files and reasons that `summary` lists; data/shards/index.json has all."""


def summary(index: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """The content of results/samples/prepare/data.json, of finished shards."""
    ranges = Counter[int]()
    for side, count in tally.short_sides.items():
        ranges[side.bit_length()] += count
    counts = zip(index["classes"], index["class_counts"], strict=True)
    reasons = Counter(entry["reason"] for entry in index["skipped"])
    return {
        "images": index["count"],
        "resolution": index["resolution"],
        "channels": index["channels"],
        "classes": [{"name": name, "images": count} for name, count in counts],
        "short_sides": [
            {"from": 2 ** (bits - 1), "to": 2**bits - 1, "images": ranges[bits]} for bits in sorted(ranges)
        ],
        "enlarged": sum(count for side, count in tally.short_sides.items() if side < index["resolution"]),
        "skipped": len(index["skipped"]),
        "skipped_reasons": [{"reason": reason, "files": files} for reason, files in reasons.most_common(LISTED)],
        "skipped_first": index["skipped"][:LISTED],
    }


def contact_images(folder: Path, index: dict[str, Any]) -> torch.Tensor:
    """Images for the contact sheet, evenly spread over the data, so that each part and class has its share.

    Returns:
        uint8 [N, C, H, W], N <= CONTACT_IMAGES, H = W <= CONTACT_SIDE; larger images are reduced.
    """
    count, number = index["count"], min(index["count"], CONTACT_IMAGES)
    wanted, images, start = [(2 * k + 1) * count // (2 * number) for k in range(number)], [], 0
    for shard in index["shards"]:
        inside = {position - start for position in wanted if start <= position < start + shard["count"]}
        start += shard["count"]
        if inside:
            images += _images(folder / shard["file"], inside)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _images(shard: Path, wanted: set[int]) -> list[np.ndarray]:
    files, position, images = Catalogue(), 0, []
    with shard.open("rb") as handle:
        for info in tar_members(handle):
            if info.name.endswith(".png"):
                if position in wanted:
                    files.add(info.name, info.offset_data, info.size)
                position += 1
        read = tar_reader(handle)
        for number in range(len(files)):
            image = Image.open(io.BytesIO(read(files, number)))
            side = min(image.width, CONTACT_SIDE)
            small = np.array(image.resize((side, side), Image.Resampling.BOX))
            images.append(small.reshape(side, side, -1))
    return images
