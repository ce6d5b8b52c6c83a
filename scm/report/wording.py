"""Names, numbers and durations as people read them."""

from scm import methods
from scm.base.project import TEACHER
from scm.results.reading import Run

DISTANCES = {"inception": "FID", "dinov2": "FD-DINOv2"}
"""Name of the Fréchet distance in an extractor's features; other extractors give it the name FD."""


FLOOR = (
    "The last row is as many draws with replacement from the training images: the {distance} to which a model with as "
    "many samples can fall."
)
INFINITE = "{distance}∞ is extrapolated to infinitely many samples, whose floor is 0 (arXiv 1911.07023)."
UNSEEN = (
    "The same samples against images that no training has seen. The training images themselves, drawn at random, show "
    "what can be reached. Copies: share of samples that are as near to a training image as only the nearest twentieth "
    "of the held-out images is; a model that repeats training images has more than the held-out images."
)


def display_name(model: str) -> str:
    """Name of a model or method as the paper writes it: "scd" -> "sCD"; an unknown key stays as it is."""
    if model == TEACHER:
        return "Teacher"
    return methods.find(model).title if model in methods.names() else model


def sampler_name(model: str) -> str:
    """Name of a student's sampler."""
    return methods.find(model).sampler if model in methods.names() else "consistency"


def number(value: float) -> str:
    """A figure with three significant digits: "0.0914", "5.30", "233", "5,450"; extremes in scientific notation."""
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def duration(seconds: float) -> str:
    """Seconds in the units that a person would use: "6.2 s", "2 min 28 s", "3 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def commit_of(run: Run) -> str:
    """Short commit of a run, with "+ changes" if the tree held uncommitted changes."""
    return str(run.get("commit") or "none")[:10] + (" + changes" if run.get("dirty") else "")


def stage_cells(run: Run) -> tuple[str, ...]:
    """Stage, time, device, commit and parameters' hash of a run file, as both reports list them."""
    item = run.get("item")
    name = run["stage"] + (f" · {display_name(item)}" if item else "")
    return name, duration(run["seconds"]), run.get("device") or "–", commit_of(run), str(run["params_hash"])[:12]
