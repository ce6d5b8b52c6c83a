"""Labels that are numbers: which numbers may be labels, and which classes they make; names that are no classes."""

import re
from collections.abc import Sequence
from typing import Any

from scm.errors import UserError

MAX_LABEL = 2**31 - 1
SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing|eval|dev)([ ._-]?(set|data|images?|split|\d+))?")


def is_label(value: Any) -> bool:
    """True for whole numbers from 0 to MAX_LABEL; `true` and 3.0 are none."""
    return type(value) is int and 0 <= value <= MAX_LABEL


def is_split(name: str) -> bool:
    """True for the name of a part of a data set, such as train or val, of which there is another one beside it."""
    return bool(SPLIT.fullmatch(name.casefold()))


def class_count(labels: Sequence[int], where: str) -> int:
    """The number of classes 0, 1, ... of which each has a label; refuses a gap. There is at least one label."""
    used, highest = set(labels), max(labels)
    missing = next(label for label in range(len(used) + 1) if label not in used)
    if missing < highest:
        gap = f"no image has the label {missing}, but one has {highest}"
        raise UserError(f"{where}: {gap}: count labels from 0 without gaps, or set data.labels: false")
    return highest + 1
