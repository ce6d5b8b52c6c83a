"""Findings with made-up figures, for tests of the rules that judge them."""

from pathlib import Path
from typing import Any, cast

from scm.report.findings import Findings, Floors, Row, Unseen
from scm.results.reading import Run


def row_of(model: str, evaluations: int, distance: float, **others: Any) -> Row:
    """A row with good figures, beside a teacher whose best distance is 1."""
    known: dict[str, Any] = {
        "sampler": "DDIM" if model == "teacher" else "consistency",
        "unbiased": None,
        "error": None,
    }
    known |= {"ratio": distance, "kernel_distance": 0.1, "compute": 0.2 * evaluations, "precision": 0.8, "recall": 0.9}
    known |= {"accuracy": 0.97, "unseen": None, "nearest": None, "ranges": ()}
    return Row(model=model, evaluations=evaluations, distance=distance, **(known | others))


def copied(share: float) -> Unseen:
    return Unseen(distance=6.0, precision=0.8, recall=0.9, copies=share)


def health_run(model: str, *lines: str) -> Run:
    """A training's run file as far as the rules look at it."""
    stage = "train_teacher" if model == "teacher" else "train_student"
    return cast(Run, {"stage": stage, "item": None if model == "teacher" else model, "health": list(lines)})


def findings_of(*rows: Row, **others: Any) -> Findings:
    """Findings of these rows, of which nothing stands out unless `others` say so."""
    models = list(dict.fromkeys(row.model for row in rows))
    known: dict[str, Any] = {"root": Path(), "preset": "digits", "extractor": "classifier", "held_out_accuracy": 0.98}
    known |= {"data": {"classes": [{"name": str(k), "images": 160} for k in range(10)], "held_out": 184}}
    known |= {"floors": Floors(0.2, None, None), "training": {}, "runs": [health_run(model) for model in models]}
    known["selection"] = {model: [{"sigma_rel": length, "fd": 1.0} for length in (0.05, 0.1, 0.2)] for model in models}
    known["choices"] = {model: {"sigma_rel": 0.1, "fd": 1.0} for model in models}
    known["progress"] = {model: [{"images": 196608.0, "fd": 1.0}] for model in models}
    known["by_time"] = {model: [{"t": t, "fd": 0.2 + t} for t in (0.0, 0.3, 0.8, 1.45)] for model in models}
    return Findings(models=models, rows=list(rows), **(known | others))
