"""Few-step image generation with continuous-time consistency models (arXiv 2410.11081).

`scm.load` loads a finished model, and needs torch only then; docs/python.md shows it.
The numerics (`scm.trigflow`, `scm.networks`, `scm.jvp`, `scm.objectives`, `scm.samplers`) need torch and numpy alone.
"""

__version__ = "0.1.0"
_PLACES = {"load": "scm.product.loading", "LoadedModel": "scm.generation.loaded", "Images": "scm.generation.loaded"}
"""The public names, and the modules that are imported when one is first used; __init__.pyi has their types."""
__all__ = ["Images", "LoadedModel", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
