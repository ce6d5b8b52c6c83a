"""Find a part of the system by its name: one file in a package's folder, named as the parameters name it.

A data source, a feature extractor, a network or a method is one such file.
Adding the file is all that registers it; no list is kept.
"""

import importlib
import importlib.util
import pkgutil
from types import ModuleType


def names(package: str) -> tuple[str, ...]:
    """Return the names of the parts of `package`, sorted, without importing any of them.

    A part is a module file directly in the package's folder.
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
    """Import the part called `name` of `package`.

    Raises:
        ValueError: `package` has no such part. Only a listed name is ever imported.
    """
    known = names(package)
    if name not in known:
        raise ValueError(f"{package} has no part {name!r}; it has {', '.join(known) or 'none'}")
    return importlib.import_module(f"{package}.{name}")
