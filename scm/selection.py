"""Which average of a model's weights is kept, and in which steps it is best sampled (sec. 6, EDM2 sec. 3)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scm import build
from scm.data.codec import Codec
from scm.ema.reconstruct import averages, reconstruct, snapshot_times
from scm.errors import UserError
from scm.evaluation.generate import Sampler, asked_labels, generate
from scm.evaluation.reference import Reference
from scm.networks import Model
from scm.params import Params
from scm.params.schema import TEACHER

State = dict[str, Tensor]
Header = dict[str, Any]
Figures = dict[str, float]
DISTANCES = ("fd", "fd_1step")


@dataclass(frozen=True)
class Selection:
    """Measures averages of one model on the same seeds.

    Attributes:
        codec: that of data/codec, which the model must have been trained with.
        snapshots: folder of the model's snapshots.
        say: prints a line of progress.
    """

    params: Params
    reference: Reference
    codec: Codec
    snapshots: Path
    device: str
    say: Callable[[str], None]

    def best(self, sigma_rels: tuple[float, ...]) -> tuple[State, Header, list[Figures]]:
        """The best average, and the figures of all: of each length, and for students in two steps of each t_mid.

        Returns:
            Its state; its header, with the t_mid; rows of sigma_rel, t_mid, fd and, for students, fd_1step.
        """
        rows: list[Figures] = []
        chosen: tuple[State, Header] = ({}, {})
        for state, header in averages(self.snapshots, sigma_rels):
            for figures in self._candidates(state, header, build.two_step_times(self.params, header)):
                if figures["fd"] < min((row["fd"] for row in rows), default=math.inf):
                    chosen = state, {**header, **{key: figures[key] for key in ("t_mid",) if key in figures}}
                known = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
                rows.append({**known, **figures})
                self.say("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
        if not chosen[0]:
            name = self.snapshots.parent.name
            raise UserError(f"{name}: no average has a finite Frechet distance; see the curves of its training")
        return *chosen, rows

    def progress(self, header: Header, choice: Figures) -> Iterator[Figures]:
        """The chosen length and t_mid along the run; of a teacher, whose loss says how it goes on, at the end alone.

        Args:
            choice: the row of the chosen average.
        """
        times, figures = snapshot_times(self.snapshots), {key: choice[key] for key in DISTANCES if key in choice}
        alone = header["model"] == TEACHER or "halflife" in header
        points = 1 if alone else min(self.params.select.progress, len(times))
        for point in range(1, points):
            images = times[len(times) * point // points - 1]
            state, _ = reconstruct(self.snapshots, header["sigma_rel"], until=images)
            (row,) = self._candidates(state, header, [header["t_mid"]] if "t_mid" in header else [])
            yield {"images": images, **{key: row[key] for key in figures}}
        yield {"images": times[-1], **figures}

    def _candidates(self, state: State, header: Header, t_mids: Sequence[float]) -> list[Figures]:
        """fd of the sampler with the most steps or, for a student in two, of each t_mid, with fd_1step beside it."""
        model = build.model_of(state, header, self.device)

        def distance(t_mid: float | None, which: int) -> float:
            return self._distance(model, header, build.samplers(self.params, header, t_mid)[which])

        if not t_mids:
            return [{"fd": distance(None, -1)}]
        in_one = distance(None, 0)
        return [{"t_mid": t_mid, "fd": distance(t_mid, -1), "fd_1step": in_one} for t_mid in t_mids]

    def _distance(self, model: Model, header: Header, sampler: Sampler) -> float:
        params, codec = self.params, self.codec
        codec.check(header["codec"], str(self.snapshots))
        count, shape = params.select.samples, codec.header["shape"]
        labels, scale = asked_labels(self.reference.labels, count), build.guidance_of(params, header)
        samples, _ = generate(model, sampler, range(count), labels, shape, params.evaluate.batch, self.device, scale)
        return self.reference.distance(codec.decode(samples))
