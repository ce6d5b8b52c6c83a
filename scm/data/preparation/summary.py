"""Describe the prepared data for people: counts, sizes, skipped files, and a contact sheet."""

import io
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scm.base.files import replacing
from scm.data.preparation.ingest import Tally
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import tar_reader
from scm.data.reading.skipped import Skipped
from scm.data.reading.tars import tar_members

CONTACT_IMAGES, CONTACT_SIDE = 100, 64
"""Most images on the contact sheet, and most pixels on a side of each."""
LISTED = 20
"""Most skipped files and reasons that `summary` lists; skipped.jsonl has all files."""
SPOKEN = 5
"""Most reasons in a line for people."""


def summary(index: dict[str, Any], tally: Tally, held_out: int = 0) -> dict[str, Any]:
    """The content of results/samples/prepare/data.json, of finished shards; `held_out` images are not in the index."""
    ranges = Counter[int]()
    for side, count in tally.short_sides.items():
        ranges[side.bit_length()] += count
    counts = zip(index["classes"], index["class_counts"], strict=True)
    return {
        "images": index["count"],
        **({"held_out": held_out} if held_out else {}),
        "resolution": index["resolution"],
        "channels": index["channels"],
        "classes": [{"name": name, "images": count} for name, count in counts],
        "short_sides": [
            {"from": 2 ** (bits - 1), "to": 2**bits - 1, "images": ranges[bits]} for bits in sorted(ranges)
        ],
        "enlarged": sum(count for side, count in tally.short_sides.items() if side < index["resolution"]),
        "in_colour": tally.in_colour,
        "skipped": len(tally.skipped),
        "skipped_reasons": [
            {"reason": reason, "files": files} for reason, files in tally.skipped.reasons().most_common(LISTED)
        ],
        "skipped_first": list(islice(tally.skipped, LISTED)),
    }


def account(index: dict[str, Any], tally: Tally, held_out: int = 0) -> str:
    """What became of all files, in one line: each was taken, held out, or left out for a reason."""
    taken, skipped = index["count"], tally.skipped
    reasons = skipped.reasons().most_common()
    said = [f"{files:,} x {reason}" for reason, files in reasons[:SPOKEN]]
    said += [f"{len(reasons) - SPOKEN:,} more reasons"] if len(reasons) > SPOKEN else []
    left_out = f"{len(skipped):,} left out" + (f" ({'; '.join(said)})" if said else "")
    aside = f", {held_out:,} held out" if held_out else ""
    total = taken + held_out + len(skipped)
    return f"{total:,} files: {taken:,} images taken, in {len(index['shards']):,} shards{aside}; {left_out}"


def colour_advice(index: dict[str, Any], tally: Tally, held_out: int = 0) -> str | None:
    """A line for people if the images' colours and `data.channels` do not go together."""
    count, coloured = index["count"] + held_out, tally.in_colour
    if index["channels"] == 3 and not coloured:
        return f"all {count:,} images are grey, but data.channels is 3: write 1, unless three equal channels are wanted"
    if index["channels"] == 1 and coloured:
        return f"{coloured:,} of {count:,} images are in colour, of which data.channels: 1 keeps the brightness alone"
    return None


def write_skipped(skipped: Skipped, path: Path) -> None:
    """Writes each file that was left out, and why, as one line of JSON."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for entry in skipped:
            lines.write(json.dumps(entry) + "\n")


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
        for member in tar_members(handle.fileno()):
            if member.name.endswith(".png"):
                if position in wanted:
                    files.add(member.name, member.place, member.size)
                position += 1
        read = tar_reader(handle.fileno())
        for number in range(len(files)):
            image = Image.open(io.BytesIO(read(files, number)))
            side = min(image.width, CONTACT_SIDE)
            small = np.array(image.resize((side, side), Image.Resampling.BOX))
            images.append(small.reshape(side, side, -1))
    return images
