"""scikit-learn's 1,797 handwritten digits of 8 x 8 grey pixels, which come with the library."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from scm.data.reading.source import ImageSource, Wanted


def refusals(data: Any) -> Iterator[tuple[str, Any, str]]:
    """Yields (key, value, problem and remedy) for what the section `data` of params.yaml may not ask of the digits."""
    if data.channels != 1:
        yield "data.channels", data.channels, "the digits are grey; write 1, or data.source: folder"
    if not data.labels:
        yield "data.labels", data.labels, "the digits have labels; write true, or data.source: folder"


def list_images(wanted: Wanted, stack: ExitStack) -> ImageSource:
    """Lists the digits, whose pixels from 0 to 16 are spread over 0 to 255; nothing of `wanted` is read."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(flat) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return ImageSource(
        name="digits",
        classes=[str(digit) for digit in range(10)],
        labels=np.asarray(labels),
        file_name=lambda number: f"digit {number}",
        load=lambda number: Image.fromarray(pixels[number]),
    )
