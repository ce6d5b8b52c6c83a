"""Building blocks of the schema of params.yaml: sections, and the types of their values."""

import copy
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from scm.base import registry
from scm.base.count import Count

Whole = Annotated[int, Field(ge=1)]
PositiveCount = Annotated[Count, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
Scale = Annotated[Finite, Field(ge=0)]
Probability = Annotated[Finite, Field(ge=0, lt=1)]
Fraction = Annotated[Finite, Field(gt=0, lt=1)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Text = Annotated[str, Field(pattern=r"\S")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MAX_SIGMA_REL = 12**-0.5
"""Largest relative width of a power-function average, at exponent 0 (EDM2, eq. 122): about 0.2887."""
SigmaRel = Annotated[Finite, Field(gt=0, lt=MAX_SIGMA_REL)]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not name anything twice")
    return values


def _ascending(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("must name the smaller one first")
    return scales


def named_in(package: str) -> BeforeValidator:
    """Accepts only the names of a package's parts (`scm.base.registry`)."""

    def check(name: Any) -> Any:
        known = registry.names(package)
        if name not in known:
            raise PydanticCustomError("literal_error", "unknown", {"expected": any_of(map(repr, known))})
        return name

    return BeforeValidator(check)


def any_of(names: Iterable[str]) -> str:
    """A choice in words: "a, b or c"."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


Items = Field(strict=False, min_length=1)
"""For tuple fields, as YAML only has lists."""
Distinct = AfterValidator(_distinct)
Range = Annotated[tuple[Scale, Scale], Field(strict=False), AfterValidator(_ascending)]


class Section(BaseModel):
    """A mapping in params.yaml."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def optional(model: type[Section]) -> dict[str, Any]:
    """The model's fields with the default None, which is not validated: a key may be absent, but not null."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        field = copy.copy(field)
        field.default = None
        fields[name] = (field.annotation, field)
    return fields


Refusals = Iterator[tuple[str, Any, str]]
"""Settings that a registered part refuses: the key relative to its section, the value, the rule with the remedy."""
