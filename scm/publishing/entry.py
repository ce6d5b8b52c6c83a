"""A candidate or champion as plain data, and as the tags of a version in MLflow.

No other module knows what these tags hold.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scm.base.documents import parse_json
from scm.errors import UserError
from scm.tracking.registry import CHAMPION, Registry, Version

FEWEST_RANGES = 2
"""Ranges of seeds that a standard deviation needs at least."""

KEY, WEIGHTS, VERDICT = "scm.key", "scm.weights", "scm.verdict"
PREVIOUS, ROLLED_BACK = "scm.previous", "scm.rolled_back"
PARTS, FILES = "eval.parts", "scm.files"
"""Names of tags; `Entry` says what they hold. ROLLED_BACK holds the time at which a person rolled the version back."""

ORIGIN = ("preset", "commit", "dirty", "params_hash", "data", "dvc_lock", "licence", "run_key")
"""What a version says of its origin, each in a tag scm.NAME."""


@dataclass(frozen=True)
class Entry:
    """A model and its figures: the candidate, or the champion as its version's tags describe it.

    Attributes:
        key: of the candidate; the same weights, measured in the same way, have the same key.
        model: e.g. scd.
        evaluations: number N of network evaluations whose figure fd@N decides.
        distances: Frechet distances of the ranges of seeds, by N.
        figures: all figures, e.g. "precision@2".
        weights: hash of the weights and of how they are sampled.
        protocol: hash of all that defines a figure.
        parts: names and values that the protocol follows from, as far as they are known.
        health: what the trainings found wrong, one line each (scm.training.diagnosis); empty for healthy trainings.
        origin: where the model comes from, by the names in ORIGIN; decides nothing.
        files: address of the folder in MLflow that holds its params.yaml and dvc.lock; None = not stored yet.
        version: of the registered model; None = not registered.
        rolled_back: the version with these weights that a person rolled back; None = none was.
        previous: the version with other weights that was champion before this one; None = none was.
    """

    key: str
    model: str
    evaluations: int
    distances: Mapping[int, tuple[float, ...]]
    figures: Mapping[str, float]
    weights: str
    protocol: str
    parts: Mapping[str, str] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    files: str | None = None
    version: str | None = None
    rolled_back: str | None = None
    previous: str | None = None

    def mean(self, evaluations: int) -> float:
        """Mean distance over the ranges of seeds; nan without any."""
        distances = self.distances.get(evaluations, ())
        return statistics.fmean(distances) if distances else math.nan

    def deviation(self, evaluations: int) -> float:
        """Standard deviation over the n ranges of seeds (divided by n - 1).

        It is nan for fewer than two ranges, and if a distance is not finite, at which Python's `statistics` fails.
        """
        distances = self.distances.get(evaluations, ())
        if len(distances) < FEWEST_RANGES or not all(map(math.isfinite, distances)):
            return math.nan
        return statistics.stdev(distances)


def tags_of(entry: Entry) -> dict[str, str]:
    """All tags that the entry's version gets when it is created."""
    own = {
        KEY: entry.key,
        WEIGHTS: entry.weights,
        FILES: entry.files or "",
        PREVIOUS: entry.previous or "",
        PARTS: json.dumps(dict(entry.parts), sort_keys=True),
        "scm.model": entry.model,
        "scm.evaluations": str(entry.evaluations),
        "scm.fd": f"{entry.mean(entry.evaluations):.6g}",
        "scm.distances": json.dumps({str(number): list(values) for number, values in entry.distances.items()}),
        "scm.figures": json.dumps(dict(entry.figures), sort_keys=True),
        "eval.protocol": entry.protocol,
    }
    return own | {f"scm.{name}": value for name, value in entry.origin.items()}


def entry_of(name: str, version: Version) -> Entry:
    """The candidate that a version of the registered model `name` was, from its tags.

    Raises:
        UserError: `scm publish` did not create the version.
    """
    tags = version.tags

    def content(tag: str, form: Any) -> Any:
        return parse_json(tags[tag], form, tag, "write it again", finite=False)

    try:
        distances = content("scm.distances", dict[str, list[float]])
        return Entry(
            key=tags[KEY],
            model=tags["scm.model"],
            evaluations=int(tags["scm.evaluations"]),
            distances={int(number): tuple(values) for number, values in distances.items()},
            figures=content("scm.figures", dict[str, float]),
            weights=tags[WEIGHTS],
            protocol=tags["eval.protocol"],
            parts=content(PARTS, dict[str, str]),
            origin={each: tags[f"scm.{each}"] for each in ORIGIN if f"scm.{each}" in tags},
            files=tags.get(FILES) or None,
            version=version.number,
            previous=tags.get(PREVIOUS) or None,
        )
    except (KeyError, ValueError, UserError) as error:
        raise UserError(
            f"version {version.number} of {name} lacks the tags that `scm publish` writes ({error}): give the alias "
            "champion to a version that has them, or delete the alias in MLflow"
        ) from None


def champion_in(registry: Registry) -> Entry | None:
    """The registry's champion, None if no version has the alias."""
    number = registry.holder(CHAMPION)
    return None if number is None else entry_of(registry.name, registry.version(number))
