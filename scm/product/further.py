"""What a row may ask for beyond one sample: a place on the way to another sample, or an edit of a picture."""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

from scm.data.latents.codec import Codec
from scm.errors import UserError
from scm.generation import editing
from scm.generation.editing import Picture

MAX_PIXELS = 2**20
"""Most pixels of a picture in a row."""
BETWEEN, EDIT = ("to_class", "to_seed", "fraction"), ("task", "image", "mask", "factor")
Pictures = dict[tuple[Any, ...], Picture]
"""The pictures of one request: rows that edit the same one share it, and are drawn together."""


def kind_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of what a row asks for, BETWEEN or EDIT; () = a sample. A row of both is a UserError."""
    between, edit = ([name for name in names if name in row] for names in (BETWEEN, EDIT))
    if between and edit:
        raise UserError(f"{between[0]}: an edit leads to no other sample; leave it out, or {edit[0]}")
    return BETWEEN if between else EDIT if edit else ()


def fraction_of(row: Mapping[str, Any]) -> float:
    """How far a row lies on the way to the other sample."""
    value = row.get("fraction")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        given = "missing" if value is None else repr(value)
        raise UserError(f"fraction {given}: must be a number from 0 (this sample) to 1 (that of to_seed)")
    return float(value)


def picture_of(row: Mapping[str, Any], codec: Codec, factor: int, pictures: Pictures) -> Picture:
    """The picture that a row edits."""
    task = row.get("task")
    if not isinstance(task, str):
        raise UserError(f"task: missing; give {', '.join(editing.TASKS)}")
    if "steps" in row:
        raise UserError("steps: an edit has times of its own; leave it out")
    editing.require_task(task, codec.header, factor, "mask" in row, "")
    key = task, row.get("image"), row.get("mask"), factor
    if key not in pictures:
        image, mask = _content("image", row), _content("mask", row) if "mask" in row else None
        pictures[key] = editing.read_picture(task, codec, image, mask, MAX_PIXELS, factor)
    return pictures[key]


def tasks_of(header: Mapping[str, Any] | None, codec: Codec) -> list[str]:
    """The tasks that a product's student can do; [] without one, or if it cannot edit."""
    if header is None:
        return []
    side, found = codec.header["shape"][-1], []
    for task in editing.TASKS:
        try:
            editing.require_editor(header, "")
            editing.require_task(task, codec.header, math.gcd(side, editing.FACTOR), task == editing.INPAINT)
        except UserError:
            continue
        found.append(task)
    return found


def _content(name: str, row: Mapping[str, Any]) -> tuple[str, bytes]:
    """What messages call a picture of a row, and its file's content."""
    text = row.get(name)
    if not isinstance(text, str):
        raise UserError(f"{name}: missing; give the file of a picture, such as a PNG, in base64")
    try:
        return name, base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name}: not in base64; send the file of a picture, such as a PNG, in base64") from None
