"""A candidate or champion as plain data, and the same as the tags of a version."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scm.errors import UserError
from scm.tracking.registry import CHAMPION, Registry, Version

FEWEST_RANGES = 2
"""Ranges of seeds from which a deviation can be told."""


@dataclass(frozen=True)
class Entry:
    """A model and how it was measured: the candidate, or the champion as its version's tags tell.

    Attributes:
        key: of the candidate; the same weights measured in the same way have the same one.
        model: e.g. scd.
        evaluations: network evaluations N of the figure fd@N that decides.
        distances: Frechet distances of the ranges of seeds, by N.
        figures: all figures, e.g. "precision@2".
        weights: hash of the weights and of how they are sampled.
        protocol: hash of all that defines a figure.
        parts: what the protocol follows from, in words and values, as far as it is known.
        health: what the trainings found wrong, one line each (scm.training.diagnosis: a healthy training has none).
        origin: commit, dirty, params_hash, data, dvc_lock, licence, preset: kept with the version, decides nothing.
        version: of the registered model; None = not registered.
        rolled_back: version with these weights that a person took back; None = there is none.
        previous: version, of other weights, that was champion before this one; None = there was none.
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
    version: str | None = None
    rolled_back: str | None = None
    previous: str | None = None

    def mean(self, evaluations: int) -> float:
        """Mean distance over the ranges of seeds; nan where there is none."""
        distances = self.distances.get(evaluations, ())
        return statistics.fmean(distances) if distances else math.nan

    def deviation(self, evaluations: int) -> float:
        """Standard deviation over the ranges of seeds (dividing by their number less 1); nan for fewer than two.

        And nan where one is not finite, at which Python's `statistics` fails.
        """
        distances = self.distances.get(evaluations, ())
        if len(distances) < FEWEST_RANGES or not all(map(math.isfinite, distances)):
            return math.nan
        return statistics.stdev(distances)


KEY, WEIGHTS, PREVIOUS, VERDICT = "scm.key", "scm.weights", "scm.previous", "scm.verdict"

PARTS = "eval.parts"

ORIGIN = ("preset", "commit", "dirty", "params_hash", "data", "dvc_lock", "licence", "run_key")


def tags_of(entry: Entry) -> dict[str, str]:
    """All that a version carries of its candidate."""
    own = {
        KEY: entry.key,
        WEIGHTS: entry.weights,
        "scm.model": entry.model,
        "scm.evaluations": str(entry.evaluations),
        "scm.fd": f"{entry.mean(entry.evaluations):.6g}",
        "scm.distances": json.dumps({str(number): list(values) for number, values in entry.distances.items()}),
        "scm.figures": json.dumps(dict(entry.figures), sort_keys=True),
        "eval.protocol": entry.protocol,
        PARTS: json.dumps(dict(entry.parts), sort_keys=True),
    }
    return own | {f"scm.{name}": value for name, value in entry.origin.items()}


def entry_of(name: str, version: Version) -> Entry:
    """The candidate that a version was, from its tags.

    Raises:
        UserError: the version was not made by `scm publish`.
    """
    tags = version.tags
    try:
        distances: dict[str, Any] = json.loads(tags["scm.distances"])
        return Entry(
            key=tags[KEY],
            model=tags["scm.model"],
            evaluations=int(tags["scm.evaluations"]),
            distances={int(number): tuple(values) for number, values in distances.items()},
            figures=json.loads(tags["scm.figures"]),
            weights=tags[WEIGHTS],
            protocol=tags["eval.protocol"],
            parts=json.loads(tags[PARTS]),
            origin={each: tags[f"scm.{each}"] for each in ORIGIN if f"scm.{each}" in tags},
            version=version.number,
            previous=tags.get(PREVIOUS) or None,
        )
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"version {version.number} of {name} has no such tags as `scm publish` writes ({error}): give the alias "
            "champion to a version that has, or delete the alias in MLflow"
        ) from None


def champion_in(registry: Registry) -> Entry | None:
    """The registry's champion, None if no version has the alias."""
    number = registry.holder(CHAMPION)
    return None if number is None else entry_of(registry.name, registry.version(number))
