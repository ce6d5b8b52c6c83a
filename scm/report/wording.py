"""Names, numbers and durations as people read them."""

from typing import Any

NAMES = {
    "teacher": "Teacher",
    "scd": "sCD",
    "sct": "sCT",
    "discrete": "Discrete sCD",
    "multistep": "Multistep sCD",
    "scd_vsd": "sCD + VSD",
    "vsd": "VSD",
}

DISTANCES = {"inception": "FID", "dinov2": "FD-DINOv2"}
"""Name of the Fréchet distance in an extractor's features; other extractors give it the name FD."""


def display_name(model: str) -> str:
    """Name of a model or method as the paper writes it: "scd" -> "sCD"; an unknown key stays as it is."""
    return NAMES.get(model, model)


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


def commit_of(run: dict[str, Any]) -> str:
    """Short commit of a run, with "+ changes" if the tree held uncommitted changes."""
    return str(run.get("commit") or "none")[:10] + (" + changes" if run.get("dirty") else "")


def line(cells: list[str] | tuple[str, ...]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def cell(value: str) -> str:
    """Text that neither ends a table cell nor begins markup."""
    for character in "\\|<>`*_[]":
        value = value.replace(character, f"\\{character}")
    return value
