"""Sends a run's files to MLflow: sample grids, as images and in a table, and whole files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from scm.tracking.records import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from PIL.Image import Image

PICTURE_PIXELS = 640
"""Longest side to which a sample grid is enlarged."""
TABLE_TAG = "mlflow.loggedArtifacts"
"""Tag in which the UI looks for the tables of a run."""
SMALL = "+compressed.webp"
"""Ending of an image's small copy. MLflow writes the copy after the image, so where the copy is, both are."""


def send_pictures(client: "MlflowClient", run: "Run", record: RunRecord, moment: int) -> None:
    """Sends grids as images, and as a table of these images.

    Only the UI's table view shows the grids of several runs side by side.
    """
    if not record.images:
        return
    run_id = run.info.run_id
    present = _names(client, run_id, "images")
    for key, (path, step) in sorted(record.images.items()):
        if not _small_copies(present, key, step):
            client.log_image(run_id, _squared(path), key=key, step=step, timestamp=moment)
    if TABLE_TAG in run.data.tags:
        return
    names, rows = _names(client, run_id, "images"), []
    for key, (_, step) in sorted(record.images.items(), key=lambda item: item[1][1]):
        small = f"images/{_small_copies(names, key, step)[0]}"
        full = f"{small.removesuffix(SMALL)}.png"
        rows.append([str(step), {"type": "image", "filepath": full, "compressed_filepath": small}])
    client.log_dict(run_id, {"columns": ["NFE", "samples"], "data": rows}, "samples.json")
    client.set_tag(run_id, TABLE_TAG, json.dumps([{"path": "samples.json", "type": "table"}]))


def _small_copies(names: list[str], key: str, step: int) -> list[str]:
    return sorted(name for name in names if name.startswith(f"{key}+step+{step}+") and name.endswith(SMALL))


def _names(client: "MlflowClient", run_id: str, folder: str) -> list[str]:
    return [Path(entry.path).name for entry in client.list_artifacts(run_id, folder)]


def _squared(path: Path) -> "Image":
    """The picture, enlarged, at the top of a square: the UI cuts squares off at the bottom and enlarges nothing."""
    from PIL import Image

    with Image.open(path) as picture:
        factor = max(1, PICTURE_PIXELS // max(picture.size))
        size = (picture.width * factor, picture.height * factor)
        enlarged = picture.convert("RGBA").resize(size, Image.Resampling.NEAREST)
    square = Image.new("RGBA", (max(size), max(size)))
    square.paste(enlarged, ((max(size) - size[0]) // 2, 0))
    return square


def send_files(client: "MlflowClient", run_id: str, record: RunRecord, results: Path) -> None:
    """Sends files under the name of their folder in results/, unless the run has a file with this name and size."""
    results, known = results.resolve(), {}
    for path in record.artifacts:
        inside = path.resolve().is_relative_to(results)
        folder = path.resolve().parent.relative_to(results).as_posix() if inside else "files"
        if folder not in known:
            known[folder] = {(entry.path, entry.file_size) for entry in client.list_artifacts(run_id, folder)}
        if (f"{folder}/{path.name}", path.stat().st_size) not in known[folder]:
            client.log_artifact(run_id, str(path), folder)
