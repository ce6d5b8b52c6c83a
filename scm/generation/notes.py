"""What a drawn picture says of itself: in a PNG text chunks, which viewers of metadata show."""

from collections.abc import Mapping
from typing import Any

from PIL.PngImagePlugin import PngInfo

from scm.errors import printable
from scm.generation.trained import choice_of


def facts(
    header: Mapping[str, Any], commit: str, steps: int, guidance: float, seed: int, names: str, images: int = 1
) -> dict[str, str]:
    """What a picture says of itself, printable.

    Args:
        header: a header with `sampling`, the choice for each number of steps.
        commit: of the run that made the model's weights.
        seed: that of the first image; the next ones follow.
        names: of the classes, in turn; empty for a model without classes.
    """
    found = {"model": header["model"], "commit": commit, "images": images if images > 1 else "", "seed": seed}
    found |= {"class": names, "steps": steps, "guidance": guidance, "t_mid": choice_of(header, steps).get("t_mid", "")}
    return {name: printable(str(value)) for name, value in found.items() if value != ""}


def chunks_of(facts: Mapping[str, str]) -> PngInfo:
    """The facts as text chunks; with `Image.save(..., pnginfo=...)` they get into a PNG."""
    chunks = PngInfo()
    for name, value in facts.items():
        chunks.add_text(name, value)
    return chunks


def notes(
    header: Mapping[str, Any], commit: str, steps: int, guidance: float, seed: int, names: str, images: int = 1
) -> PngInfo:
    """The facts of a drawn picture as text chunks."""
    return chunks_of(facts(header, commit, steps, guidance, seed, names, images))
