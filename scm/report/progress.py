"""results/progress.html, the page of all trainings of a run, which grows while they run.

A training keeps a grid of samples for each snapshot in its work folder, beside what it resumes from. Its section of the
page follows from these and from its lines of metrics.jsonl, and lies in results/progress, so that the page of the next
training shows it too. Nothing here may end a training: a page that cannot be written is a warning.
"""

import base64
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from scm.base import locks
from scm.base.files import read_sealed, replacing, write_sealed, write_text
from scm.base.project import TEACHER
from scm.charts.axes import IMAGES, Line, image_count
from scm.charts.inline import Chart, thinned
from scm.charts.plain import plain_svg
from scm.errors import Interrupted, UserError
from scm.generation.grids import grid, scale_for
from scm.networks import Model
from scm.params import Params
from scm.report.preview import COLUMNS, drawn, sampler_of
from scm.report.wording import display_name, duration, number
from scm.results.reading import read_run, run_path

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, SECTIONS = Path("results/progress.html"), Path("results/progress")
SAMPLES = "samples"
"""Folder of the grids in a training's work folder; a grid's name is its number of images seen."""
EVERY, SPARING, REFRESH = 5.0, 100, 10
"""Seconds between two versions of the page, at least; how many times as long as the last one took, at least; seconds
after which a browser loads it again."""
SHOWN = 16
"""Grids of a model on the page, at most, evenly chosen; the newest is always there."""
FORMAT = 1
"""Form of a section's file; a section of another form is left out."""
CURVES = (("loss", "Loss", "#228be6", False), ("sample_fd", "Distance of one-step samples, coarse", "#e8a200", True))
"""Columns of metrics.jsonl: caption, colour, logarithmic axis."""
SILENT = 3600.0
"""Seconds without a new version after which another training is taken to have been killed."""
STATES = {
    "running": "running",
    "done": "finished",
    "stopped": "stopped; the same command goes on",
    "failed": "ended with an error",
    "silent": "no news",
}


class ProgressPage:
    """One training's part of the page; only the training's first process has one.

        with ProgressPage(params, root, work, "teacher", key, say) as page:
            Trainer(..., watch=page).run()

    Args:
        root: the project's folder.
        work: the training's work folder.
        model: teacher, or the student's method.
        key: fingerprint of the stage, by which a later run tells if the section is of the model that it finds.
        say: prints a line.
    """

    def __init__(
        self, params: Params, root: Path, work: Path, model: str, key: str, say: Callable[[str], None]
    ) -> None:
        self._params, self._root, self._work, self._say = params, root, work, say
        settings = params.teacher if model == TEACHER else params.student.method(model)
        self._section: dict[str, Any] = {
            "format": FORMAT, "model": model, "key": key, "state": "running", "images": 0, "budget": settings.images,
            "rate": None, "health": [], "sampler": "", "error": None,
        }  # fmt: skip
        self._curves: dict[str, list[tuple[int, float]]] = {name: [] for name, *_ in CURVES}
        self._grids: dict[int, str] = {}
        self._due, self._warned = -math.inf, ""

    def __enter__(self) -> Self:
        self._say(f"progress, with samples: {self._root / PAGE}")
        self._write()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        self._section["state"] = "done" if error is None else "stopped" if stopped else "failed"
        if isinstance(error, UserError):
            self._section["error"] = str(error)
        self._write(wait=True)

    def resumed(self, images: int, lines: Sequence[Mapping[str, Any]], health: Sequence[str]) -> None:
        """Takes up what an earlier process has left, up to its last checkpoint; the rest is drawn again."""
        self._section["images"] = images
        for line in lines:
            self._take(line)
        self._section["health"] = list(health)
        with self._forgiven():
            for file in sorted((self._work / SAMPLES).glob("[0-9]*.png")):
                if int(file.stem) <= images:
                    self._grids[int(file.stem)] = _encoded(file.read_bytes())
                else:
                    file.unlink()
        self._write()

    def add(self, line: Mapping[str, Any], health: Sequence[str]) -> None:
        """Shows a new line of metrics.jsonl, soon."""
        self._take(line)
        self._section |= {"health": list(health), "rate": line["images_per_second"]}
        if time.monotonic() >= self._due:
            self._write()

    def snapshot(self, model: Model, average: Mapping[str, Tensor], header: Mapping[str, Any], images: int) -> None:
        """Draws the grid of a snapshot."""
        with self._forgiven():
            self._section["sampler"] = sampler_of(self._params, header)[1]
            samples = drawn(self._params, self._root / "data/codec", header, model, average)
            picture = io.BytesIO()
            grid(samples, COLUMNS, scale_for(samples.shape[-1])).save(picture, format="PNG")
            with replacing(self._work / SAMPLES / f"{images:012d}.png") as temporary:
                temporary.write_bytes(picture.getvalue())
            self._grids[images] = _encoded(picture.getvalue())

    def _take(self, line: Mapping[str, Any]) -> None:
        self._section["images"] = line["images"]
        for name, points in self._curves.items():
            if math.isfinite(line.get(name, math.nan)):
                points.append((line["images"], line[name]))

    def _write(self, *, wait: bool = False) -> None:
        """Writes the section and the page.

        Args:
            wait: False leaves it to the next time if another training is writing the page.
        """
        began = time.monotonic()
        with self._forgiven(), locks.held(self._root / SECTIONS / "lock", wait=wait):
            lines = {name: thinned(Line.through(points, "")) for name, points in self._curves.items()}
            curves = {name: [list(line.x), list(line.y)] for name, line in lines.items()}
            own = {**self._section, "time": time.time(), "curves": curves, "grids": _chosen(self._grids)}
            write_sealed(_file(self._root, own["model"]), own)
            write_text(self._root / PAGE, page(self._root, self._params, own))
        ended = time.monotonic()
        self._due = ended + max(EVERY, SPARING * (ended - began))

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Turns what may go wrong with the page into a warning, and says each warning once."""
        try:
            yield
        except locks.Taken:
            return
        except (OSError, UserError, torch.OutOfMemoryError) as error:
            if str(error) != self._warned:
                self._warned = str(error)
                self._say(f"warning: the training goes on, but its page {PAGE} lacks something: {error}")


def page(root: Path, params: Params, own: Mapping[str, Any]) -> str:
    """The page of all models of the parameters, as one HTML file.

    Args:
        own: the section of the training that writes it.
    """
    models = params.evaluate.models
    found = {model: own if model == own["model"] else _earlier(root, model) for model in models}
    sections = [section for section in found.values() if section is not None]
    # Trainings that run come first, the others in the order of training.
    sections.sort(key=lambda section: section["state"] != "running")
    missing = [model for model, section in found.items() if section is None]
    elsewhere = [model for model in missing if run_path(root, _stage(model)).exists()]
    to_come = [model for model in missing if model not in elsewhere]
    running = any(section["state"] == "running" for section in sections)
    return _template().render(
        refresh=REFRESH if running or (to_come and own["state"] == "done") else None,
        preset=params.preset,
        sections=[_shown(section) for section in sections],
        elsewhere=[display_name(model) for model in elsewhere],
        to_come=[display_name(model) for model in to_come],
    )


@lru_cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    templates = Environment(loader=FileSystemLoader(folder), autoescape=True, **options)
    templates.filters["svg"] = lambda chart, end: Markup(plain_svg(chart, end))
    templates.globals["style"] = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return templates.get_template("progress.html.j2")


def _earlier(root: Path, model: str) -> dict[str, Any] | None:
    """Another training's section; None if there is none, or if its model has been replaced since."""
    section = read_sealed(_file(root, model))
    if section is None or section.get("format") != FORMAT:
        return None
    if section["state"] == "running" and time.time() - section["time"] > SILENT:
        section["state"] = "silent"
    # Before its run file is written, a model is this training's.
    with suppress(UserError):
        if section["state"] == "done" and read_run(run_path(root, _stage(model)))["key"] != section["key"]:
            return None
    return section


def _shown(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a section."""
    name, images, budget, rate = display_name(section["model"]), section["images"], section["budget"], section["rate"]
    charts = []
    for column, caption, colour, logarithmic in CURVES:
        x, y = section["curves"][column]
        if x:
            line = Line(x, y, colour, points=column != "loss")
            charts.append((caption, Chart(f"{name}: {caption}", IMAGES, [line], logarithmic), number(y[-1])))
    left, moment = max(budget - images, 0), datetime.fromtimestamp(section["time"]).astimezone()
    facts = [f"{min(images, budget):,} of {budget:,} images"]
    facts += [f"{number(rate)} images/s"] if rate else []
    facts += [f"{duration(left / rate)} left"] if rate and left and section["state"] == "running" else []
    grids = [(image_count(seen), picture) for seen, picture in section["grids"]]
    facts += [f"as of {moment:%Y-%m-%d %H:%M:%S %Z}"]
    told = {"name": name, "charts": charts, "facts": facts, "grids": grids, "words": STATES[section["state"]]}
    return {**section, **told, "share": min(images / budget, 1)}


def _chosen(grids: Mapping[int, str]) -> list[tuple[int, str]]:
    """At most SHOWN of the grids, evenly chosen, with the first and the last, in the order of training."""
    every, last = sorted(grids.items()), len(grids) - 1
    kept = range(len(every)) if len(every) <= SHOWN else [round(k * last / (SHOWN - 1)) for k in range(SHOWN)]
    return [every[index] for index in kept]


def _encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _stage(model: str) -> str:
    return "train_teacher" if model == TEACHER else f"train_student@{model}"


def _file(root: Path, model: str) -> Path:
    return root / SECTIONS / f"{model}.json"
