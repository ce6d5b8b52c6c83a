"""numpy's types, arrays and numbers as pickles hold them."""

from typing import Any

import numpy as np

from scm.pickles.machine import Buildable, Refused


class NumpyType(Buildable):
    """A numpy type, whose state tells the order of bytes."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise Refused("refused: a numpy type that is no number")
        self.type = np.dtype(code)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1:2] not in (("<",), ("|",)):
            raise Refused("refused: a numpy type with another order of bytes")

    def numbers(self, data: Any) -> np.ndarray:
        if not isinstance(data, bytes):
            raise Refused("refused: numpy numbers that are no bytes")
        return np.frombuffer(data, self.type)


class NumpyArray(Buildable):
    """A numpy array, which gets its numbers after it was made."""

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        self.value: np.ndarray = np.zeros(0)

    def build(self, state: Any) -> None:
        match state:
            case (int(), tuple(shape), NumpyType() as kind, bool(by_column), data):
                if all(type(length) is int for length in shape):
                    self.value = kind.numbers(data).reshape(shape, order="F" if by_column else "C")
                    return
        raise Refused("refused: a numpy array of an unknown form")


class Python2Array(NumpyArray):
    """A numpy array in a pickle of Python 2, where bytes are text."""

    def build(self, state: Any) -> None:
        match state:
            case (*form, str(data)):
                return super().build((*form, data.encode("latin-1")))
        raise Refused("refused: a numpy array of an unknown form")


def numpy_scalar(kind: Any, data: Any) -> int | float | bool:
    if not isinstance(kind, NumpyType):
        raise Refused("refused: a numpy number without a type")
    return kind.numbers(data).reshape(()).item()
