"""Finds parts of the system by name: a data source, a feature extractor, a network or a method.

A part is one file in a package's folder, with the name that params.yaml uses. Adding the file registers the part.
"""

import importlib
import importlib.util
import pkgutil
from types import ModuleType


def names(package: str) -> tuple[str, ...]:
    """Returns the sorted names of a package's parts, without importing them.

    Files with a leading underscore and sub-packages are not parts.

    Raises:
        ValueError: `package` is not a package.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"{package} is not a package")
    modules = pkgutil.iter_modules(spec.submodule_search_locations)
    return tuple(sorted(module.name for module in modules if not module.ispkg and not module.name.startswith("_")))


def part(package: str, name: str) -> ModuleType:
    """Imports the part called `name` of `package`; only names that `names` lists are imported.

    Raises:
        ValueError: `package` has no such part.
    """
    known = names(package)
    if name not in known:
        raise ValueError(f"{package} has no part {name!r}; it has {', '.join(known) or 'none'}")
    return importlib.import_module(f"{package}.{name}")
