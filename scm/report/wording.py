"""Names, numbers and durations as people read them."""

from scm import methods
from scm.base.project import TEACHER
from scm.results.reading import Run

DISTANCES = {"inception": "FID", "dinov2": "FD-DINOv2"}
"""Name of the Fréchet distance in an extractor's features; other extractors give it the name FD."""
FEATURES = {"inception": "Inception", "dinov2": "DINOv2"}
"""Name of an extractor in sentences."""
FIGURES = (
    (
        *("{distance}", "Are samples like real images? Fréchet distance of both in the features of {features}."),
        "near the last row, which is as many draws with replacement from the training images",
    ),
    ("{distance}∞", "The same, extrapolated to infinitely many samples (arXiv 1911.07023).", "near 0"),
    ("× teacher", "{distance} over the teacher's in its most evaluations.", "up to 2; the paper's claim is 1.1"),
    (
        *("KID", "Kernel distance of the same features (arXiv 1801.01401), whose size depends on them."),
        "near 0, or at most the teacher's; chance, or samples that repeat real images, can make it negative",
    ),
    (
        *("Precision", "Do samples look real? The share that lies among the real images' features (arXiv 1904.06991)."),
        "near the teacher's; below 0.4 is weak",
    ),
    (
        *("Recall", "Is all that is real drawn? The share of real images that lies among the samples' features."),
        "near the teacher's; below 0.4 is weak",
    ),
    ("Accuracy", "The share of samples in which the classifier sees the class that was asked for.", "{accuracy}"),
    (
        *(
            "Copies",
            "The share of samples as near to a training image as only the nearest twentieth of the held-out is.",
        ),
        "near {copies}; a model that repeats training images has more",
    ),
    ("NFE", "Network evaluations for one sample: the cost of sampling.", "few"),
)
"""The figures, each with its meaning and what is good."""
UNSEEN = (
    "The same samples against images that no training has seen. The training images themselves, drawn at random, show "
    "what can be reached."
)


def a_distance(name: str) -> str:
    """Name of the Fréchet distance with its article, for sentences."""
    return "a Fréchet distance" if name == "FD" else f"an {name}"


def joined(names: list[str]) -> str:
    """Names as a sentence lists them: "sCD, sCT and VSD"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


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
