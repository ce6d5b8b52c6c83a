"""Which files a stage's result follows from: the definitions that its code reaches, followed through imports.

The code is read, not run. A definition reaches the names that it uses; an imported name leads on to its own definition,
and `module.name` to the definition in that module.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
Place = tuple[str, str]
"""A module, and the name of a definition in it; "" = the module's own statements."""


def file_of(module: str) -> Path | None:
    """The module's file; None if it is none of this project."""
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


class Module:
    """Definitions and imports of one module."""

    def __init__(self, name: str) -> None:
        path = file_of(name)
        assert path is not None
        self.definitions: dict[str, list[ast.AST]] = {}
        self.imports: dict[str, Place | str] = {}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            for defined in _defined(node):
                self.definitions.setdefault(defined, []).append(node)
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                self.definitions.setdefault("", []).append(node)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and file_of(node.module):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    is_module = file_of(inner) is not None and alias.name not in _names_of(node.module)
                    self.imports[alias.asname or alias.name] = inner if is_module else (node.module, alias.name)


@cache
def module(name: str) -> Module:
    return Module(name)


@cache
def _names_of(name: str) -> frozenset[str]:
    """Names that a package's __init__ defines or imports; a sub-module of the same name is hidden by them."""
    path = file_of(name)
    assert path is not None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    return frozenset({name for node in tree.body for name in _defined(node)} | imported)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def reached(starts: list[Place], frame: tuple[str, ...] = (), apart: tuple[str, ...] = ()) -> set[Path]:
    """Files, relative to the project, of all definitions that can be reached.

    Args:
        starts: where to begin.
        frame: beginnings of modules that are passed through, but are not in the result.
        apart: modules that are not entered.
    """
    waiting, seen = list(starts), set[Place]()
    while waiting:
        place = waiting.pop()
        if place in seen or place[0] in apart:
            continue
        seen.add(place)
        waiting += _next(place)
    modules = {name for name, _ in seen if not name.startswith(frame)}
    files = {path for name in modules if (path := file_of(name)) is not None}
    return {path.relative_to(ROOT) for path in files if path.name != "__init__.py"}


def _next(place: Place) -> list[Place]:
    name, definition = place
    known, found = module(name), list[Place]()
    if definition and definition not in known.definitions:  # imported there, and handed on
        return _resolved(known, definition, None)
    for node in known.definitions.get(definition, []):
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                found += _resolved(known, part.value.id, part.attr)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                if part.id in known.definitions:
                    found.append((name, part.id))
                elif not isinstance(known.imports.get(part.id), str):
                    found += _resolved(known, part.id, None)
    return [*found, (name, "")] if definition else found


def _resolved(known: Module, name: str, attribute: str | None) -> list[Place]:
    """Where an imported name is defined; of a module, its attribute."""
    target = known.imports.get(name)
    if isinstance(target, tuple):
        return [target]
    return [] if target is None or attribute is None else [(target, attribute)]
