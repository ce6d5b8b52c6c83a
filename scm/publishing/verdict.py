"""results/verdict.json and results/verdict.md: what `scm publish` decided, why, and if it was carried out.

git ignores both files: they describe a registry at one moment, not a commit, and a file that each publication changes
would leave each checkout dirty. The version's tags keep what must last. The Markdown suits the summary of a CI step.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scm.base.files import write_json, write_text
from scm.base.tables import escape, markdown_table
from scm.publishing.entry import FEWEST_RANGES, Entry
from scm.publishing.gate import Rules, Verdict
from scm.results.reading import sample_path

OTHER_FIGURES = ("fd_held_out", "copies", "kid", "precision", "recall", "accuracy", "images_per_second")
"""Figures at the N that decides, shown below the distances."""
ORIGIN = {"commit": "commit", "dirty": "uncommitted changes", "params_hash": "parameters", "data": "data"}
KINDS = {"first": "the first champion", "promoted": "champion", "challenger": "challenger, not champion"}
"""What a version's description calls a verdict."""
LONGEST_DESCRIPTION = 5000
"""Characters that MLflow keeps of a description."""
DIGITS = 12
"""Digits of a hash that are shown."""


@dataclass
class Outcome:
    """What one `scm publish` knows and has done so far.

    Attributes:
        name: of the registered model.
        verdict: None until the registry has answered.
        published: True once the registry agrees with the verdict.
        version: of the candidate, None while it has none.
        error: the fault that kept the verdict from being published.
    """

    name: str
    candidate: Entry
    rules: Rules
    dry_run: bool = False
    champion: Entry | None = None
    verdict: Verdict | None = None
    published: bool = False
    version: str | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        kind = "no verdict" if self.verdict is None else self.verdict.kind
        what = "First champion" if kind == "first" else kind.capitalize()
        version = "" if self.version is None else f", version {self.version}"
        done = self.published or kind == "refused"
        state = " (dry run: not published)" if self.dry_run else "" if done else " (not published)"
        return f"{what}: {self.name}{version}{state}"

    @property
    def reasons(self) -> list[str]:
        return [*(() if self.verdict is None else self.verdict.reasons), *(() if self.error is None else (self.error,))]


def write(root: Path, outcome: Outcome) -> None:
    """Writes both files."""
    json_file, page_file = files(root)
    # JSON has no nan: null stands for each number that is not finite.
    write_json(json_file, json.loads(json.dumps(content(root, outcome)), parse_constant=lambda name: None))
    write_text(page_file, page(root, outcome))


def files(root: Path) -> tuple[Path, Path]:
    return root / "results" / "verdict.json", root / "results" / "verdict.md"


def forget(root: Path) -> None:
    """Removes an earlier verdict, so that nobody takes it for the verdict on a candidate that could not be judged."""
    for path in files(root):
        path.unlink(missing_ok=True)


def content(root: Path, outcome: Outcome) -> dict[str, Any]:
    """The verdict as plain values."""
    verdict, champion = outcome.verdict, outcome.champion
    return {
        "kind": None if verdict is None else verdict.kind,
        "name": outcome.name,
        "version": outcome.version,
        "published": outcome.published,
        "dry_run": outcome.dry_run,
        "reasons": outcome.reasons,
        "error": outcome.error,
        "figures": {} if verdict is None else dict(verdict.figures),
        "rules": asdict(outcome.rules),
        "candidate": _side(outcome.candidate),
        "champion": None if champion is None else _side(champion),
        "grids": grids(root, outcome.candidate),
    }


def grids(root: Path, candidate: Entry) -> list[str]:
    """The candidate's sample grids that exist, as paths from the project's folder."""
    paths = [sample_path(root, candidate.model, number) for number in sorted(candidate.distances)]
    return [path.relative_to(root).as_posix() for path in paths if path.exists()]


def page(root: Path, outcome: Outcome) -> str:
    """Markdown with the verdict, its reasons, candidate and champion side by side, and the grids."""
    lines = [f"# {outcome.title}", "", *(f"- {' '.join(reason.split())}" for reason in outcome.reasons), ""]
    lines.append(markdown_table(("", "candidate", "champion"), [tuple(map(escape, row)) for row in rows(outcome)]))
    paths = grids(root, outcome.candidate)
    if paths:
        lines += ["", "Grids of the candidate: " + ", ".join(f"`{path}`" for path in paths)]
    return "\n".join(lines) + "\n"


def description(outcome: Outcome) -> str:
    """Markdown for the candidate's version in MLflow: the figure that decides, the verdict, its reasons, and the table.

    MLflow's list of versions shows the first words alone.
    """
    candidate, kind = outcome.candidate, "no verdict" if outcome.verdict is None else outcome.verdict.kind
    number, origin = candidate.evaluations, f"{candidate.model} of preset {candidate.origin['preset']}"
    head = f"fd@{number} {distance(candidate, number)}: {KINDS.get(kind, kind)}, {origin}"
    table = [tuple(map(escape, row)) for row in rows(outcome)]
    reasons = [f"- {' '.join(reason.split())}" for reason in outcome.reasons]
    text = "\n".join([head, "", *reasons, "", markdown_table(("", "this version", "champion before"), table)])
    return text[:LONGEST_DESCRIPTION]


def rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    """Rows of the table: name of a figure or fact, the candidate's value, the champion's value."""
    candidate, champion = outcome.candidate, outcome.champion
    number = candidate.evaluations

    def row(name: str, value: Any) -> tuple[str, str, str]:
        return name, value(candidate), "–" if champion is None else value(champion)

    found = [("version", outcome.version or "–", "–" if champion is None else champion.version or "–")]
    found.append(row("model", lambda entry: entry.model))
    found += [
        row(f"fd@{each}{' (decides)' if each == number else ''}", lambda entry, each=each: distance(entry, each))
        for each in sorted(candidate.distances)
    ]
    for name in OTHER_FIGURES:
        key = f"{name}@{number}"
        if key in candidate.figures:
            found.append(row(key, lambda entry, key=key: _number(entry.figures.get(key, math.nan))))
    found += [
        row(name, lambda entry, key=key: entry.origin.get(key, "")[:DIGITS] or "–") for key, name in ORIGIN.items()
    ]
    found.append(row("protocol", lambda entry: entry.protocol[:DIGITS]))
    found.append(row("licence", lambda entry: entry.origin.get("licence", "–")))
    return found


def distance(entry: Entry, number: int) -> str:
    """Mean and deviation over the ranges of seeds, e.g. "1.10 ± 0.02 (3 ranges)"."""
    count = len(entry.distances.get(number, ()))
    if count < FEWEST_RANGES:
        return _number(entry.mean(number))
    return f"{_number(entry.mean(number))} ± {entry.deviation(number):.2g} ({count} ranges)"


def _side(entry: Entry) -> dict[str, Any]:
    number = entry.evaluations
    return {**asdict(entry), "mean": entry.mean(number), "deviation": entry.deviation(number)}


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–" if math.isnan(value) else str(value)
