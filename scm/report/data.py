"""The report's part about the data: what `prepare` counted, and its contact sheet."""

import base64
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from scm.base.documents import is_there, read_json
from scm.base.forms import Natural
from scm.errors import UserError

FOLDER = Path("results/samples/prepare")
KEYS = {
    "images",
    "resolution",
    "channels",
    "classes",
    "short_sides",
    "enlarged",
    "in_colour",
    "skipped",
    "skipped_reasons",
}
REMAKE = "delete it and run `scm run`"
SPELT_OUT = 20
"""Up to this many classes get a bar each; for more, the sentence names the smallest and the largest count."""


class ClassCount(TypedDict):
    name: str
    images: Natural


class Reason(TypedDict):
    reason: str
    files: Natural


Sides = TypedDict("Sides", {"from": Natural, "to": Natural, "images": Natural})
"""How many images have a short side of `from` to `to` pixels."""


class Summary(TypedDict):
    """data.json, which `scm.data.preparation.summary` makes."""

    images: Natural
    held_out: NotRequired[Natural]
    resolution: Natural
    channels: Natural
    classes: list[ClassCount]
    short_sides: list[Sides]
    enlarged: Natural
    in_colour: Natural
    skipped: Natural
    skipped_reasons: list[Reason]


def read(root: Path) -> Summary:
    """Reads data.json, which prepare wrote; UserError if it is missing or holds something else."""
    return read_json(root / FOLDER / "data.json", Summary, damaged="delete it and run `scm run prepare`")


def classes_of(root: Path) -> int:
    """Classes of the prepared data; 0 if there are none, or none are known yet."""
    return len(read(root)["classes"]) if is_there(root / FOLDER / "data.json") else 0


def sentence(data: Summary) -> str:
    """Counts, sizes and colours of the data, and what was left out, as text."""
    classes, side = data["classes"], data["resolution"]
    counts = [entry["images"] for entry in classes]
    to_most = f" to {max(counts):,}" if len(set(counts)) > 1 else ""
    each = f" of {min(counts):,}{to_most} images" if counts else ""
    kind = {1: "grey", 3: "RGB"}.get(data["channels"], f"{data['channels']} channels")
    in_classes = f" in {len(classes):,} class{'es' if len(classes) != 1 else ''}{each}" if classes else ""
    reasons = ", ".join(f"{entry['files']:,} × {entry['reason']}" for entry in data["skipped_reasons"])
    left_out = f"{data['skipped']:,} files left out" + (f" ({reasons})" if reasons else "")
    held_out = data.get("held_out", 0)
    aside = f", and {held_out:,} held out" if held_out else ""
    colours = ""
    if data["channels"] == 3 and not data["in_colour"]:
        colours = " All images are grey."
    elif data["channels"] == 1 and data["in_colour"]:
        colours = f" {data['in_colour']:,} images were in colour."
    return (
        f"{data['images']:,} images{in_classes}{aside}, scaled to {side}×{side} pixels, {kind}; "
        f"{data['enlarged']:,} were smaller. {left_out}.{colours}"
    )


def shown(root: Path, data: Summary) -> dict[str, Any]:
    """The data section of the page: the sentence, the contact sheet, and the bars of each title."""
    sides = [(f"{entry['from']:,} to {entry['to']:,} px", entry["images"]) for entry in data["short_sides"]]
    bars = [("Short sides of the originals", sides)]
    if 0 < len(data["classes"]) <= SPELT_OUT:
        bars.insert(0, ("Classes", [(entry["name"], entry["images"]) for entry in data["classes"]]))
    return {"sentence": sentence(data), "contact_sheet": embedded(root / FOLDER / "contact.png"), "bars": bars}


def embedded(path: Path) -> str:
    """A PNG file as a data URL; UserError if it is missing or empty."""
    return data_url(picture(path))


def picture(path: Path) -> bytes:
    """The content of a PNG file; UserError if it is missing or empty."""
    content = path.read_bytes() if path.is_file() else b""
    if not content:
        raise UserError(f"{path} is missing or empty: {REMAKE}")
    return content


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
