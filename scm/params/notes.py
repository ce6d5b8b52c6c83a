"""Values of params.yaml that work, but that a person would want to be told about."""

from collections.abc import Iterator

from scm.params.schema import Params

FEATURES = {"inception": 2048, "dinov2": 1024}
"""Features of extractors that params.yaml gives by their name; an exported one is known when it has been read."""


def notes(params: Params, classes: int = 0, features: int | None = None) -> Iterator[str]:
    """Yields one line "key = value: what follows; remedy" for each such value.

    Args:
        classes: of the prepared data; 0 = none, or not known yet.
        features: of the extractor, if it has been read.
    """
    evaluate, dimensions = params.evaluate, features or _features(params)
    for key, samples in (("select.samples", params.select.samples), ("evaluate.samples", evaluate.samples)):
        if dimensions is not None and samples < dimensions:
            problem = f"fewer than the {dimensions:,} features, so the Frechet distance comes out too large"
            yield f"{key} = {samples.written}: {problem}; use {dimensions} or more"
    if evaluate.grid_classes < classes:
        problem = f"the grids show the first of {classes:,} classes alone"
        yield f"evaluate.grid_classes = {evaluate.grid_classes}: {problem}; use {classes} to see all"


def _features(params: Params) -> int | None:
    name = params.reference.extractor
    return getattr(getattr(params.reference, name, None), "features", None) or FEATURES.get(name)
