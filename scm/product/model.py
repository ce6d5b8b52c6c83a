"""The packaged model, an mlflow pyfunc: rows of class, seed, steps, guidance and more in, PNG images out.

This module and those that it imports need only torch, numpy, safetensors, pillow, and mlflow with its pandas; packaging
copies their source beside the weights. Invalid requests raise MLflow's INVALID_PARAMETER_VALUE, which its servers
answer with code 400.
"""

import base64
import io
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scm.base import weights
from scm.data.latents.autoencoders import load_codec
from scm.errors import UserError
from scm.generation import editing, trained
from scm.generation.classes import class_number
from scm.generation.generate import generate
from scm.generation.interpolation import Place, generate_between
from scm.generation.notes import chunks_of, facts
from scm.generation.sampler import Sampler
from scm.networks import Model
from scm.product import further
from scm.product.content import CODEC, MAX_SEED, REPACK, SETTINGS, STUDENT, TEACHER, Content

COLUMNS = ("class", "seed", "steps", "guidance", *further.BETWEEN, *further.EDIT)


@dataclass(frozen=True)
class Wish:
    """One checked row of a request."""

    label: int  # number of the class; -1 = without
    seed: int
    steps: int
    role: str  # STUDENT or TEACHER, the model that draws it
    guidance: float
    toward: Place | None = None  # the place between this sample and another one that is asked for instead
    picture: editing.Picture | None = None  # the picture that is edited instead


class Dropped(Exception):
    """Nobody waits for the images any more."""


def always() -> bool:
    return True


class Product:
    """The models of a package, ready to draw.

    Args:
        folder: the folder `product` of a package.
        max_rows: most images that a request may ask for.
        max_steps: most steps that an image may take.
        device: cpu, cuda, or auto = cuda if there is one.
    """

    def __init__(self, folder: Path, max_rows: int, max_steps: int, device: str) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":  # the CPU is deterministic anyway
            trained.repeatable()
        self.content, self.max_rows, self.max_steps, self.device = Content.read(folder), max_rows, max_steps, device
        self.folder, self.codec = folder, load_codec(folder / CODEC, device, REPACK, REPACK)
        self._models: dict[str, tuple[Model, dict[str, Any]]] = {}
        for role, sampling in ((STUDENT, self.content.student), (TEACHER, self.content.teacher)):
            if sampling is not None:
                file = folder / f"{role}.safetensors"
                state, header = weights.load(file, device, missing=REPACK, damaged=REPACK)
                model = trained.model_of(state, header, device, str(file), REPACK)
                self.codec.check(header["codec"], str(file), str(folder / CODEC), REPACK)
                source = str(folder / SETTINGS)
                self._models[role] = model, trained.with_choices(header, sampling.choices, source, REPACK)
        self._turn = threading.Lock()

    def wish(self, row: dict[str, Any], pictures: further.Pictures | None = None) -> Wish:
        """Checks that the model can do what a row asks for; None and NaN count as absent.

        Args:
            pictures: those that earlier rows of the request edit; this row's is added.
        """
        given = {key: value for key, value in row.items() if not _absent(value)}
        unknown = sorted(str(key) for key in given.keys() - set(COLUMNS))
        if unknown:
            raise UserError(f"{unknown[0]}: unknown; a row has {', '.join(COLUMNS)}")
        if "seed" not in given:
            raise UserError("seed: missing; give a whole number, such as 0")
        seed = _whole("seed", given["seed"])
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed {seed}: must be between 0 and {MAX_SEED}")
        kind = further.kind_of(given)
        if kind == further.EDIT:
            return self._edit(given, seed, {} if pictures is None else pictures)
        steps = _whole("steps", given.get("steps", self.content.steps))
        role, label = self._role(steps), self._label(given.get("class"))
        guidance = self._guidance(role, steps, given.get("guidance"))
        toward = self._place(given, seed, label) if kind == further.BETWEEN else None
        return Wish(label, seed, steps, role, guidance, toward)

    @property
    def tasks(self) -> list[str]:
        """The edits that the student can do."""
        return further.tasks_of(self._models[STUDENT][1] if STUDENT in self._models else None, self.codec)

    def wishes(self, rows: list[dict[str, Any]]) -> list[Wish]:
        """Checks a request's rows."""
        if not 1 <= len(rows) <= self.max_rows:
            raise UserError(f"{len(rows)} rows: a request takes 1 to {self.max_rows}")
        wishes, pictures = [], further.Pictures()
        for place, row in enumerate(rows):
            try:
                wishes.append(self.wish(row, pictures))
            except UserError as error:
                raise UserError(f"row {place}: {error}") from None
        return wishes

    def draw(self, wishes: list[Wish], wanted: Callable[[], bool] = always) -> list[dict[str, Any]]:
        """Draws images, similar ones in one batch, and returns rows of the signature's outputs; one batch at a time.

        Raises:
            Dropped: `wanted`, which is asked before each evaluation of a network, has become false.
        """
        alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, wish in enumerate(wishes):
            alike[wish.role, wish.steps, wish.guidance, wish.toward is None, wish.picture].append(place)
        answers: dict[int, dict[str, Any]] = {}
        for places in alike.values():
            with self._turn:
                drawn = self._batch([wishes[place] for place in places], wanted)
            answers |= dict(zip(places, drawn, strict=True))
        return [answers[place] for place in range(len(wishes))]

    def _batch(self, wishes: list[Wish], wanted: Callable[[], bool]) -> list[dict[str, Any]]:
        """Draws wishes of one kind together."""
        role, steps, guidance, picture = wishes[0].role, wishes[0].steps, wishes[0].guidance, wishes[0].picture
        model, header = self._models[role]
        started, shape, count = time.perf_counter(), self.codec.header["shape"], len(wishes)
        sampler = _stoppable(self._sampler(header, steps, picture), wanted)
        places = [wish.toward for wish in wishes if wish.toward is not None]
        if places:
            samples = generate_between(model, sampler, places, shape, count, self.device, guidance)
        else:
            labels, seeds = torch.tensor([wish.label for wish in wishes]), [wish.seed for wish in wishes]
            samples, _ = generate(model, sampler, seeds, labels, shape, count, self.device, guidance)
        images = self.codec.decode(samples)
        images = images if picture is None else picture.finished(images)
        common = {
            "seconds": (time.perf_counter() - started) / count,
            "evaluations": sampler.nfe * trained.evaluations_per_call(header, guidance),
            "model": header["model"],
        }
        drawn = [(image, self._notes(header, wish)) for image, wish in zip(images, wishes, strict=True)]
        return [{"png": png_of(image, chunks), **common} for image, chunks in drawn]

    def _sampler(self, header: dict[str, Any], steps: int, picture: editing.Picture | None) -> Sampler:
        if picture is not None:
            return editing.edit_sampler(picture, self.codec, editing.times_of(header, picture.task), self.device)
        levels = trained.NoiseLevels(self.content.sigma_min, self.content.sigma_max, self.content.rho)
        return trained.sampler_of(header, steps, levels, "steps")

    def _notes(self, header: dict[str, Any], wish: Wish) -> PngInfo:
        names = ["", *self.content.classes]
        sampling = self.content.student if wish.role == STUDENT else self.content.teacher
        assert sampling is not None
        about = facts(header, sampling.commit, wish.steps, wish.guidance, wish.seed, names[wish.label + 1])
        if (to := wish.toward) is not None:
            about |= {"to seed": str(to.to_seed), "to class": names[to.to_label + 1], "fraction": str(to.fraction)}
        if wish.picture is not None:
            about = {**about, "task": wish.picture.task, "t_mid": ""}  # it has times of its own
        return chunks_of({name: value for name, value in about.items() if value})

    def _place(self, given: dict[str, Any], seed: int, label: int) -> Place:
        if "to_seed" not in given:
            raise UserError("to_seed: missing; give the seed of the sample that fraction 1 is")
        to_seed, to_label = _whole("to_seed", given["to_seed"]), label
        if not 0 <= to_seed <= MAX_SEED:
            raise UserError(f"to_seed {to_seed}: must be between 0 and {MAX_SEED}")
        if "to_class" in given:
            to_label = self._label(given["to_class"], "to_class")
        return Place(seed, label, to_seed, to_label, further.fraction_of(given))

    def _edit(self, given: dict[str, Any], seed: int, pictures: further.Pictures) -> Wish:
        if STUDENT not in self._models:
            raise UserError("task: this model is a teacher, which cannot edit")
        header, label = self._models[STUDENT][1], self._label(given.get("class"))
        editing.require_editor(header, f"task: {header['model']} cannot edit")
        guidance = self._guidance(STUDENT, trained.own_steps(header)[-1], given.get("guidance"))
        factor = _whole("factor", given.get("factor", editing.FACTOR))
        picture = further.picture_of(given, self.codec, factor, pictures)
        return Wish(label, seed, len(editing.times_of(header, picture.task)), STUDENT, guidance, picture=picture)

    def _role(self, steps: int) -> str:
        own, most = self.content.student_steps, self.max_steps
        if steps in own and steps <= most:
            return STUDENT
        if max(own, default=0) < steps <= most:
            return TEACHER
        allowed = f"{self.content.name} takes {' or '.join(map(str, own))}, " if own else ""
        raise UserError(f"steps {steps}: {allowed}the teacher {max(own, default=0) + 1} to {most}")

    def _label(self, asked: Any, column: str = "class") -> int:
        names = self.content.classes
        if not names:
            if asked is None or (isinstance(asked, int | float) and asked == -1):
                return -1
            raise UserError(f"{column}: this model was trained without classes; leave it out")
        if asked is None:
            raise UserError(f"{column}: missing; give a name, or a number from 0 to {len(names) - 1}")
        return class_number(asked if isinstance(asked, str) else str(_whole(column, asked)), names, column)

    def _guidance(self, role: str, steps: int, asked: Any) -> float:
        sampling = self.content.student if role == STUDENT else self.content.teacher
        assert sampling is not None
        if asked is None:
            return trained.choice_of(self._models[role][1], steps)["guidance_scale"]
        if isinstance(asked, bool) or not isinstance(asked, int | float):
            raise UserError(f"guidance {asked!r}: must be a number, such as 1.5")
        scale, limits = float(asked), sampling.guidance_range
        trained.require_scale(self._models[role][1], scale, "guidance")
        if limits is not None and not limits[0] <= scale <= limits[1]:
            raise UserError(f"guidance {scale:g}: must be between {limits[0]:g} and {limits[1]:g}")
        return scale


class ImageModel(PythonModel):
    """The pyfunc: `predict` takes a data frame of rows and returns a data frame of images."""

    def load_context(self, context: PythonModelContext) -> None:
        limits = context.model_config or {}
        folder = Path(context.artifacts["product"])
        self.product = Product(folder, int(limits["max_rows"]), int(limits["max_steps"]), str(limits["device"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        product = self.product
        try:
            wishes = product.wishes(model_input.to_dict("records"))
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        try:
            return pd.DataFrame(product.draw(wishes))
        except UserError as error:  # the model's own fault: its samples are not finite
            raise MlflowException(str(error), error_code=INTERNAL_ERROR) from None


def _stoppable(sampler: Sampler, wanted: Callable[[], bool]) -> Sampler:
    """A sampler like the given one that stops before an evaluation that is no longer wanted."""

    def run(function: Callable[..., torch.Tensor], noise: Any) -> torch.Tensor:
        def evaluated(*arguments: Any, **named: Any) -> torch.Tensor:
            if not wanted():
                raise Dropped
            return function(*arguments, **named)

        return sampler.run(evaluated, noise)

    return replace(sampler, run=run)


def png_of(image: torch.Tensor, chunks: PngInfo) -> str:
    """Encodes an image, uint8 [C, H, W] with C = 1 or 3, as a PNG in base64."""
    pixels = image.cpu().permute(1, 2, 0).squeeze(2).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, bool | str) and hasattr(value, "__float__"):  # numpy's numbers as well
        number: Any = value
        if math.isfinite(number) and int(number) == number:
            return int(number)
    raise UserError(f"{name} {value!r}: must be a whole number")
