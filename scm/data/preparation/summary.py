"""Describe the prepared data for people: counts, sizes, skipped files, and a contact sheet."""

import io
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from scm.base.files import replacing
from scm.data.preparation.ingest import Tally
from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import tar_reader
from scm.data.reading.skipped import Skipped
from scm.data.reading.tars import tar_members
from scm.data.shards.shards import LABELS, read_array

CONTACT_IMAGES, CONTACT_SIDE, COLUMNS = 100, 96, 10
"""Most images on the contact sheet, pixels on a side of each (about as many for a small one), and images in a row."""
GAP, GAP_GREY = 1, 160
"""Pixels between two images, and the grey level there: most images have a black or a white background."""
CAPTION, SMALL = 15, 11
"""Height of a line with a class's name, and of its letters, in pixels."""
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


def contact_sheet(folder: Path, index: dict[str, Any]) -> Image.Image:
    """Images evenly spread over the data, so that each part and class has its share, with the names of their classes.

    Large images are reduced, and the pixels of small ones enlarged to squares.
    """
    wanted = _spread(index["count"], min(index["count"], CONTACT_IMAGES))
    images, classes = _read(folder, index, wanted, CONTACT_SIDE), index["classes"]
    labels = read_array(folder, index, LABELS)
    return _sheet(images, [(int(labels[place]), classes[labels[place]]) for place in wanted] if classes else [])


def real_images(folder: Path, index: dict[str, Any], columns: int, rows: int) -> torch.Tensor:
    """Images laid out as the models' grids are: a class for each column; without classes, from all over the data.

    Returns:
        uint8 [rows * columns, C, H, W], row by row; a class with too few images repeats them.
    """
    counts, side = np.array(index["class_counts"][:columns]), index["resolution"]
    if not counts.all() or not len(counts):
        return _stacked(_read(folder, index, _spread(index["count"], rows * columns), side))
    labels = read_array(folder, index, LABELS)
    of_class = [np.flatnonzero(labels == label)[_spread(int(count), rows)] for label, count in enumerate(counts)]
    return _stacked(_read(folder, index, np.stack(of_class, axis=1).flatten().tolist(), side))


def _stacked(images: list[Image.Image]) -> torch.Tensor:
    """Images of one size as uint8 [N, C, H, W]."""
    pixels = np.stack([np.array(image) for image in images])
    return torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()


def _spread(count: int, number: int) -> list[int]:
    """Places of `number` images among `count`, evenly spread."""
    return [(2 * k + 1) * count // (2 * number) for k in range(number)]


def _read(folder: Path, index: dict[str, Any], wanted: list[int], most: int) -> list[Image.Image]:
    """The images at these places of the shards, with at most `most` pixels on a side."""
    found, start = dict[int, Image.Image](), 0
    for shard in index["shards"]:
        inside = {place - start for place in wanted if start <= place < start + shard["count"]}
        if inside:
            images = _images(folder / shard["file"], inside, most)
            found |= {start + place: image for place, image in zip(sorted(inside), images, strict=True)}
        start += shard["count"]
    return [found[place] for place in wanted]


def _sheet(images: list[Image.Image], classes: list[tuple[int, str]]) -> Image.Image:
    """Arranges images of one size row by row, with the number and name of each one's class below it."""
    side, below = images[0].width * max(1, round(CONTACT_SIDE / images[0].width)), CAPTION if classes else 0
    size = (COLUMNS * (side + GAP) + GAP, -(-len(images) // COLUMNS) * (side + below + GAP) + GAP)
    sheet, font = Image.new("RGB", size, (GAP_GREY,) * 3), small_letters()
    draw = ImageDraw.Draw(sheet)
    for position, image in enumerate(images):
        row, column = divmod(position, COLUMNS)
        place = GAP + column * (side + GAP), GAP + row * (side + below + GAP)
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST).convert("RGB"), place)
        if classes:
            text = caption(*classes[position], font, side)
            draw.text((place[0] + side / 2, place[1] + side + 1), text, "black", font, "ma")
    return sheet


def small_letters() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has more letters than Pillow's own font."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), SMALL)


def caption(number: int, name: str, font: Any, width: int) -> str:
    """A class's name, cut to `width` pixels, or its number if the font lacks letters of the name."""
    unknown = bytes(font.getmask("\U0010ffff"))
    if any(bytes(font.getmask(letter)) == unknown for letter in name):
        name = f"class {number}"
    short = name
    while font.getlength(short) > width and name:
        name = name[:-1]
        short = f"{name}..."
    return short


def _images(shard: Path, wanted: set[int], most: int) -> list[Image.Image]:
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
            side = min(image.width, most)
            images.append(image.resize((side, side), Image.Resampling.BOX))
    return images
