"""Which average of a model's weights is kept, and in which steps it is best sampled (sec. 6, EDM2 sec. 3)."""

import math
from collections.abc import Callable, Iterator
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
from scm.params import Params

State = dict[str, Tensor]
Header = dict[str, Any]
Figures = dict[str, float]


@dataclass(frozen=True)
class Selection:
    """Measures averages of one model on the same seeds.

    Attributes:
        snapshots: folder of the model's snapshots.
        say: prints a line of progress.
    """

    params: Params
    reference: Reference
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
            for figures in self._candidates(state, header):
                if figures["fd"] < min((row["fd"] for row in rows), default=math.inf):
                    chosen = state, {**header, **{key: figures[key] for key in ("t_mid",) if key in figures}}
                known = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
                rows.append({**known, **figures})
                self.say("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
        if not chosen[0]:
            name = self.snapshots.parent.name
            raise UserError(f"{name}: no average has a finite Frechet distance; see the curves of its training")
        return *chosen, rows

    def progress(self, state: State, header: Header) -> Iterator[Figures]:
        """The figures of the chosen length and t_mid along the run; the last ones are those of the choice."""
        times = snapshot_times(self.snapshots)
        points = min(self.params.select.progress, len(times)) if "halflife" not in header else 1
        for point in range(1, points + 1):
            images = times[len(times) * point // points - 1]
            if point < points:
                state_then, _ = reconstruct(self.snapshots, header["sigma_rel"], until=images)
            else:
                state_then = state
            yield {"images": images, **self._figures(state_then, header, header.get("t_mid"))}

    def _candidates(self, state: State, header: Header) -> Iterator[Figures]:
        for t_mid in build.two_step_times(self.params, header) or (None,):
            yield {**({} if t_mid is None else {"t_mid": t_mid}), **self._figures(state, header, t_mid)}

    def _figures(self, state: State, header: Header, t_mid: float | None) -> Figures:
        """fd of the best sampler and, where it takes two steps, fd_1step."""
        samplers = build.samplers(self.params, header, t_mid)
        figures = {"fd": self._distance(state, header, samplers[-1])}
        return figures if t_mid is None else {**figures, "fd_1step": self._distance(state, header, samplers[0])}

    def _distance(self, state: State, header: Header, sampler: Sampler) -> float:
        params, codec = self.params, Codec(header["codec"])
        model, count = build.model_of(state, header, self.device), params.select.samples
        labels, shape = asked_labels(self.reference.labels, count), codec.header["shape"]
        scale = build.guidance_of(params, header)
        samples, _ = generate(model, sampler, range(count), labels, shape, params.evaluate.batch, self.device, scale)
        return self.reference.distance(codec.decode(samples))
