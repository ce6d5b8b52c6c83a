"""What a drawn PNG says of itself, in text chunks that viewers of metadata show."""

from collections.abc import Mapping
from typing import Any

from PIL.PngImagePlugin import PngInfo

from scm.errors import printable
from scm.generation.trained import choice_of


def notes(
    header: Mapping[str, Any], commit: str, steps: int, guidance: float, seed: int, names: str, images: int = 1
) -> PngInfo:
    """The text chunks of a picture; with `Image.save(..., pnginfo=...)` they get into the file.

    Args:
        header: a header with `sampling`, the choice for each number of steps.
        commit: of the run that made the model's weights.
        seed: that of the first image; the next ones follow.
        names: of the classes, in turn; empty for a model without classes.
    """
    facts = {"model": header["model"], "commit": commit, "images": images if images > 1 else "", "seed": seed}
    facts |= {"class": names, "steps": steps, "guidance": guidance, "t_mid": choice_of(header, steps).get("t_mid", "")}
    chunks = PngInfo()
    for name, value in facts.items():
        if value != "":
            chunks.add_text(name, printable(str(value)))
    return chunks
