"""A pickle machine that runs nothing: a file's opcodes on plain values, and on names that mean only what we say.

Threat model: the file is an enemy's. Python's own unpickler imports what a file names and calls it; here a name is a
piece of text, and a call looks it up in a table of functions of ours, which check their arguments and build plain data.
So the worst that a file can do is to be refused, or to hold wrong numbers. It cannot exhaust this process either: the
number of operations and the height of the stack are bounded, nothing recurses, and text alone becomes a key, since
hashing a tuple that nests deeply overflows the C stack, and whole numbers can be chosen so that their hashes collide.
"""

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

from scm.errors import printable

MAX_OPERATIONS = 1_000_000
"""Most operations in one file; EDM's and EDM2's have about 150 for each tensor."""
OPCODES = {info.code.encode("latin-1"): info for info in pickletools.opcodes}
MAX_STACK = 10_000
"""Most values and marks on the stack; pickle writes lists and dictionaries in batches of 1,000 entries."""


class Refused(Exception):
    """The file is damaged, or holds what this program does not take; the text says which."""


@dataclass(eq=False)
class Name:
    """A global that a file names, e.g. `torch.HalfStorage`: the name, with nothing behind it."""

    text: str


class Buildable(ABC):
    """An object that a file may give a state after making it."""

    @abstractmethod
    def build(self, state: Any) -> None: ...


@dataclass(eq=False)
class Record(Buildable):
    """An object of somebody else's class as data: the name of its class, and its attributes."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused(f"refused: a state of a {short(self.class_name)} that is no dictionary")
        self.state = state


@dataclass(frozen=True)
class Known:
    """The names that a file may use. The functions get the file's arguments and refuse unfit ones.

    Attributes:
        functions: by full name, the functions that a file may call.
        classes: by full name, factories of empty objects for the classes that a file may instantiate.
        names: further names, which a file may pass to the functions.
        persistent: resolves a persistent id; None = the file may have none.
    """

    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    classes: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    persistent: Callable[[Any], Any] | None = None


class Machine:
    """Runs the opcodes of one pickle of protocol 2 or later."""

    CONSTANTS: ClassVar = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    EMPTY: ClassVar = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
    TUPLES: ClassVar = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
    LITERALS = frozenset(["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"])
    LITERALS |= frozenset(["SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"])

    def __init__(self, stream: IO[bytes], known: Known, operations: int = MAX_OPERATIONS) -> None:
        self._stream, self._known, self._left = stream, known, operations
        self._stacks: list[list[Any]] = [[]]
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Reads the pickled value; the stream then stands behind it.

        Raises:
            Refused: the pickle is damaged, or has unknown parts.
        """
        try:
            while code := self._stream.read(1):
                self._left -= 1
                if self._left < 0 or len(self._stacks) > MAX_STACK or len(self._stacks[-1]) > MAX_STACK:
                    raise Refused("refused: it nests too deeply, or has more parts than a network")
                if (info := OPCODES.get(code)) is None:
                    raise ValueError(f"0x{code.hex()} in the place of an opcode")
                if info.name == "STOP":
                    return self._pop()
                self._step(info)
        except (ValueError, IndexError, OverflowError) as error:
            raise Refused(f"truncated or damaged ({short(str(error))})") from None
        raise Refused("truncated")

    def _step(self, info: pickletools.OpcodeInfo) -> None:
        """Runs one opcode; an unknown one is refused before its argument is read."""
        opcode = info.name
        if opcode not in self.ALL:
            raise Refused(f"refused: the opcode {opcode}, which pickles of networks do not have")
        argument = info.arg.reader(self._stream) if info.arg and opcode != "GLOBAL" else None  # type: ignore[arg-type]
        if opcode in self.LITERALS:
            self._push(argument)
        elif opcode in self.CONSTANTS:
            self._push(self.CONSTANTS[opcode])
        elif opcode in self.EMPTY:
            self._push(self.EMPTY[opcode]())
        elif opcode in self.TUPLES:
            self._push(tuple(self._pop_many(self.TUPLES[opcode])))
        else:
            self.STEPS[opcode](self, argument)

    def _push(self, value: Any) -> None:
        self._stacks[-1].append(value)

    def _pop(self) -> Any:
        return self._stacks[-1].pop()

    def _pop_many(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _pop_mark(self) -> list[Any]:
        if len(self._stacks) == 1:
            raise IndexError("no mark on the stack")
        return self._stacks.pop()

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stacks[-1][-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"nothing was kept under {index}")
        self._push(self._memo[index])

    def _target(self, kind: type) -> Any:
        """The value on top of the stack, which a file may change if it has this type."""
        target = self._stacks[-1][-1]
        if type(target) is not kind:
            raise Refused(f"refused: a change of a {type(target).__name__} as if it were a {kind.__name__}")
        return target

    def _extend(self, values: list[Any]) -> None:
        self._target(list).extend(values)

    def _add(self, values: list[Any]) -> None:
        self._target(set).update(_texts(values))

    def _set_items(self, values: list[Any]) -> None:
        self._target(dict).update(zip(_texts(values[::2]), values[1::2], strict=True))

    def _line(self) -> str:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise ValueError("a line without an end")
        return line[:-1].decode()

    def _global(self, module: Any, name: Any) -> None:
        text, known = ".".join(_texts([module, name])), self._known
        if text not in known.functions and text not in known.classes and text not in known.names:
            raise Refused(f"refused {short(text)}: it is no part of a network as EDM and EDM2 pickle them")
        self._push(Name(text))

    def _call(self, table: Mapping[str, Callable[..., Any]]) -> None:
        name, arguments = self._pop_many(2)
        if not isinstance(name, Name) or name.text not in table or not isinstance(arguments, tuple):
            raise Refused(f"refused: a call of {name.text if isinstance(name, Name) else type(name).__name__}")
        try:
            self._push(table[name.text](*arguments))
        except TypeError:
            raise Refused(f"refused: a call of {name.text} with {len(arguments)} arguments") from None

    def _build(self) -> None:
        target, state = self._pop_many(2)
        if not isinstance(target, Buildable):
            raise Refused(f"refused: a state for a {type(target).__name__}")
        target.build(state)
        self._push(target)

    def _persistent(self) -> None:
        if self._known.persistent is None:
            raise Refused("refused: a persistent id, which stands for something outside of this file")
        self._push(self._known.persistent(self._pop()))

    STEPS: ClassVar[dict[str, Callable[["Machine", Any], object]]] = {
        "PROTO": lambda self, _: None,
        "FRAME": lambda self, _: None,
        "MARK": lambda self, _: self._stacks.append([]),
        "TUPLE": lambda self, _: self._push(tuple(self._pop_mark())),
        "APPEND": lambda self, _: self._extend(self._pop_many(1)),
        "APPENDS": lambda self, _: self._extend(self._pop_mark()),
        "ADDITEMS": lambda self, _: self._add(self._pop_mark()),
        "SETITEM": lambda self, _: self._set_items(self._pop_many(2)),
        "SETITEMS": lambda self, _: self._set_items(self._pop_mark()),
        "MEMOIZE": _memoize,
        "BINPUT": _memoize,
        "LONG_BINPUT": _memoize,
        "BINGET": _recall,
        "LONG_BINGET": _recall,
        "GLOBAL": lambda self, _: self._global(self._line(), self._line()),
        "STACK_GLOBAL": lambda self, _: self._global(*self._pop_many(2)),
        "REDUCE": lambda self, _: self._call(self._known.functions),
        "NEWOBJ": lambda self, _: self._call(self._known.classes),
        "BUILD": lambda self, _: self._build(),
        "BINPERSID": lambda self, _: self._persistent(),
    }
    ALL = LITERALS | {*CONSTANTS, *EMPTY, *TUPLES, *STEPS}


class Python2Machine(Machine):
    """The machine for Python 2's pickles, whose text is bytes or letters as one likes; here letters, by Latin-1."""

    LITERALS = Machine.LITERALS | {"SHORT_BINSTRING", "BINSTRING"}
    ALL: ClassVar = Machine.ALL | LITERALS


def _texts(values: list[Any]) -> list[str]:
    for value in values:
        if type(value) is not str:
            raise Refused(f"refused: a {type(value).__name__} as a key or a name")
    return values


def short(text: str) -> str:
    """A file's text for one line of a message, at most 120 characters."""
    return printable(text)[:120]
