"""The table that DVC plots with all models in one axis: results/plots/progress.csv.

DVC takes a plot's files from dvc.yaml by their names, and the models' names are in params.yaml. So the models' own
curves, which their stages write, come together here.
"""

from collections.abc import Sequence
from pathlib import Path

from scm.base.files import replacing_folder, write_csv
from scm.results.reading import progress_path, read_curve


def write_plots(root: Path, models: Sequence[str]) -> None:
    """Writes results/plots from the curves of these models."""
    rows = [
        {"model": model, "images": int(row["images"]), "fd": row["fd"]}
        for model in models
        for row in read_curve(progress_path(root, model), "images")
        if "fd" in row
    ]
    with replacing_folder(root / "results/plots") as folder:
        write_csv(folder / "progress.csv", rows)
