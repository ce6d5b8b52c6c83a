"""Extension of griffe: the examples of docstrings, which doctest runs, are shown as code."""

import inspect
import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(_section, inspect.cleandoc(obj.docstring.value))


def _section(example: re.Match[str]) -> str:
    """The example as a section of Google's layout."""
    return "\n".join(["Examples:", *(f"    {line}" for line in example[0].splitlines())])
