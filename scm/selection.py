"""Which average of a model's weights is kept, and in which steps it is best sampled (sec. 6, EDM2 sec. 3).

The candidates of params.yaml are measured first; each round of `select.refine` then adds those halfway between the best
one and its neighbours. All are measured on the same seeds, so that their differences are less noisy than the figures.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scm import build
from scm.data.codec import Codec
from scm.ema.reconstruct import averages, reconstruct, snapshot_times
from scm.errors import UserError
from scm.evaluation.figures import sampled_features
from scm.evaluation.generate import Sampler, asked_labels, batches
from scm.evaluation.reference import Reference
from scm.networks import Model
from scm.params import Params
from scm.params.schema import TEACHER
from scm.training.distributed import Ranks

State = dict[str, Tensor]
Header = dict[str, Any]
Figures = dict[str, float]
DISTANCES = ("fd", "fd_1step")


class Measured:
    """Distances that were measured, kept in a file of JSON lines, so that an interrupted search goes on.

    The first of several processes has the file, and says what it knows; all measure what it does not know.
    """

    def __init__(self, file: Path, ranks: Ranks) -> None:
        """Reads what an interrupted run has left; its last line may be half written."""
        self._file, self._ranks, self._known = file, ranks, dict[str, float]()
        if ranks.rank:
            return
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        for line in whole:
            name, distance = json.loads(line)
            self._known[name] = distance
        if len(whole) < len(lines):
            file.write_bytes(b"".join(whole))

    def of(self, name: str, measure: Callable[[], float]) -> float:
        """The distance of what `name` names, measured where it is not known."""
        if self._ranks.any(name in self._known):
            return self._ranks.of_first(self._known.get(name, 0.0))
        distance = self._ranks.of_first(measure())
        if self._ranks.rank == 0:
            self._known[name] = distance
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, distance]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return distance


@dataclass(frozen=True)
class Selection:
    """Measures averages of one model on the same seeds.

    Attributes:
        codec: that of data/codec, which the model must have been trained with.
        snapshots: folder of the model's snapshots.
        ranks: this process and the others, among which the samples are divided.
        say: prints a line of progress.
        measured: distances of these snapshots, measured before under the same parameters.
    """

    params: Params
    reference: Reference
    codec: Codec
    snapshots: Path
    ranks: Ranks
    say: Callable[[str], None]
    measured: Measured

    def best(self, sigma_rels: tuple[float, ...]) -> tuple[State, Header, list[Figures]]:
        """The best average, and the figures of all: of each length, and for students in two steps of each t_mid.

        Returns:
            Its state; its header, with the t_mid; rows of sigma_rel, t_mid, fd and, for students, fd_1step.
        """
        rows: list[Figures] = []
        best: tuple[State, Header] = ({}, {})
        for turn in range(1 + self.params.select.refine):
            for state, header, t_mids in self._finer(rows, best[1]) if turn else self._given(sigma_rels):
                for figures in self._candidates(state, header, t_mids):
                    if figures["fd"] < min((row["fd"] for row in rows), default=math.inf):
                        best = state, {**header, **{key: figures[key] for key in ("t_mid",) if key in figures}}
                    known = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
                    rows.append({**known, **figures})
                    self.say("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
            if not best[0]:
                name = self.snapshots.parent.name
                raise UserError(f"{name}: no average has a finite Frechet distance; see the curves of its training")
        return *best, rows

    def _given(self, sigma_rels: Sequence[float]) -> Iterator[tuple[State, Header, Sequence[float]]]:
        """The averages of params.yaml, each with the t_mid that it is measured at."""
        for state, header in averages(self.snapshots, sigma_rels):
            yield state, header, build.two_step_times(self.params, header)

    def _finer(self, rows: Sequence[Figures], best: Header) -> Iterator[tuple[State, Header, Sequence[float]]]:
        """Those of the next round."""
        for sigma_rel, t_mids in finer(rows, best):
            yield *reconstruct(self.snapshots, sigma_rel), t_mids

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
            state, then = reconstruct(self.snapshots, header["sigma_rel"], until=images)
            (row,) = self._candidates(state, then, [header["t_mid"]] if "t_mid" in header else [])
            yield {"images": images, **{key: row[key] for key in figures}}
        yield {"images": times[-1], **figures}

    def _candidates(self, state: State, header: Header, t_mids: Sequence[float]) -> list[Figures]:
        """fd of the sampler with the most steps or, for a student in two, of each t_mid, with fd_1step beside it."""
        model = build.model_of(state, header, self.ranks.device)

        def distance(t_mid: float | None, which: int) -> float:
            sampler = build.samplers(self.params, header, t_mid)[which]
            length = f"halflife {header['halflife']}" if "halflife" in header else f"sigma_rel {header['sigma_rel']}"
            name = f"{header['images']} images, {length}, {sampler.nfe} evaluations"
            name += f", t_mid {t_mid}" if t_mid is not None and which else ""
            return self.measured.of(name, lambda: self._distance(model, header, sampler))

        if not t_mids:
            return [{"fd": distance(None, -1)}]
        in_one = distance(None, 0)
        return [{"t_mid": t_mid, "fd": distance(t_mid, -1), "fd_1step": in_one} for t_mid in t_mids]

    def _distance(self, model: Model, header: Header, sampler: Sampler) -> float:
        """The first process measures the features of all; what the others return is not read."""
        params, ranks, codec = self.params, self.ranks, self.codec
        codec.check(header["codec"], str(self.snapshots))
        count, shape = params.select.samples, codec.header["shape"]
        labels, scale = asked_labels(self.reference.labels, count), build.guidance_of(params, header)
        place = params.evaluate.batch, ranks.device, scale, ranks.rank, ranks.world
        drawn = batches(model, sampler, range(count), labels, shape, *place)
        features, _ = sampled_features(drawn, count, codec.decode, self.reference, ranks)
        return self.reference.distance_of(features) if ranks.rank == 0 else 0.0


def finer(rows: Sequence[Figures], best: Header) -> list[tuple[float, list[float]]]:
    """The next candidates: halfway to the best one's neighbours in length (geometric mean) and in t_mid (mean).

    Args:
        rows: what was measured, as `Selection.best` returns it.
        best: header of the best average. The one with a half-life, and an imported one, have no neighbours in length.

    Returns:
        Lengths, each with the t_mid that it is to be measured at; the best length comes with new t_mid.
    """
    if "halflife" in best or best["sigma_rel"] is None:
        return []
    lengths = between([row["sigma_rel"] for row in rows], best["sigma_rel"], lambda a, b: math.sqrt(a * b), 4)
    if "t_mid" not in best:
        return [(length, []) for length in lengths]
    times = between([row["t_mid"] for row in rows], best["t_mid"], lambda a, b: (a + b) / 2, 3)
    return [(length, [best["t_mid"]]) for length in lengths] + ([(best["sigma_rel"], times)] if times else [])


def between(tried: Sequence[float], best: float, middle: Callable[[float, float], float], digits: int) -> list[float]:
    """Values between the best one and its next smaller and next larger one, rounded; none that was tried before."""
    smaller, larger = [value for value in tried if value < best], [value for value in tried if value > best]
    neighbours = sorted(smaller)[-1:] + sorted(larger)[:1]
    found = [round(middle(value, best), digits) for value in neighbours]
    return [value for value in found if value not in tried]
