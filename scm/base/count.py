"""Counts: whole numbers with an optional binary suffix, 128Ki = 131,072 and 8Mi = 8,388,608."""

import re
from contextlib import suppress
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

SUFFIXES = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_WRITTEN = re.compile(r"(\d{1,12})(Ki|Mi|Gi)")


class Count(int):
    """An int >= 0 that remembers how it was written, so that parameters are written back unchanged."""

    written: int | str

    def __new__(cls, written: int | str) -> Self:
        if isinstance(written, str):
            match = _WRITTEN.fullmatch(written)
            if match is None:
                raise ValueError(f"not a count: {written!r}")
            number = int(match[1]) * SUFFIXES[match[2]]
        else:
            number = int(written)
        count = super().__new__(cls, number)
        count.written = written
        return count

    def __getnewargs__(self) -> tuple[int | str]:
        return (self.written,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda count: count.written)
        )

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, int | str) and not isinstance(value, bool):
            with suppress(ValueError):
                count = cls(value)
                if count >= 0:
                    return count
        raise PydanticCustomError("count", "must be a count")
