"""Imports from other projects' checkouts, and stand-ins for what their losses do not need."""

import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from scm.errors import UserError


class Stub:
    """Stands for anything of a package that is missing: a call, a base class, a decorator, a context."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        decorates = len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], Stub)
        return args[0] if decorates else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"{self._name}.{name}")

    def __mro_entries__(self, bases: Any) -> tuple[()]:
        return ()

    def __getitem__(self, _: Any) -> "Stub":
        return self

    def __or__(self, _: Any) -> "Stub":
        return self

    __ror__ = __or__

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StandIns(MetaPathFinder, Loader):
    """The first finder of modules: makes stubs of the packages that a loss does not need, installed or not.

    Attributes:
        used: packages that were stood in for.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.used = set[str]()
        self._packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package = next((name for name in self._packages if f"{fullname}.".startswith(f"{name}.")), None)
        if package is None:
            return None
        self.used.add(package)
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        class Empty(ModuleType):
            def __getattr__(self, name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                return Stub(f"{self.__name__}.{name}")

        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_from(code: Path, needless: tuple[str, ...]) -> StandIns:
    """Has imports look into the checkout first, and stand-ins take what its loss does not need."""
    sys.path.insert(0, str(code.absolute()))
    sys.dont_write_bytecode = True  # the checkout stays as it is
    stand_ins = StandIns(needless)
    sys.meta_path.insert(0, stand_ins)
    return stand_ins


def reason(error: BaseException) -> str:
    """One line that says why a checkout cannot be measured."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs {error.name}, which is not installed"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
