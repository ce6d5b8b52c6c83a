"""Choose the average of a model's weights, its guidance scale and its sampling times (sec. 6, EDM2 sec. 3).

The candidates of params.yaml are measured first. If `select.coarse` is a number, all are measured on so many samples,
and the better half again on `select.samples`. Each of `select.refine` rounds then adds candidates halfway between the
best one and its neighbours. All use the same seeds, so their differences are less noisy than the figures.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scm.base.distributed import Ranks
from scm.base.files import append_line, write_text
from scm.base.project import TEACHER
from scm.data.latents.codec import Codec
from scm.ema.reconstruct import averages, reconstruct, snapshot_times
from scm.errors import UserError
from scm.evaluation.figures import sampled_features
from scm.evaluation.reference import Reference
from scm.generation.generate import asked_labels, batches
from scm.generation.sampler import Sampler
from scm.generation.trained import model_of
from scm.networks import Model

State = dict[str, Tensor]
Header = dict[str, Any]
Figures = dict[str, float]
Way = tuple[float, float | None]
"""How an average is sampled: the guidance scale, and t_mid if it is sampled in two steps."""
Planned = tuple[State, Header, Sequence[Way]]
"""An average, and the ways to measure it in."""
DISTANCES = ("fd", "fd_1step")
DIGITS = 16
"""Length of the hash before each measured distance."""


class Measured:
    """Distances measured so far, kept in a file of JSON lines, so that an interrupted search continues.

    Only rank 0 reads and writes the file and tells the other ranks its values; all ranks measure what it lacks.
    """

    def __init__(self, file: Path, ranks: Ranks) -> None:
        """Reads what an interrupted run has left, but for lines that are cut or damaged, which it drops."""
        self._file, self._ranks, self._known = file, ranks, dict[str, float]()
        if ranks.rank:
            return
        lines = file.read_bytes().decode(errors="replace").splitlines() if file.exists() else []
        whole = [line for line in lines if _hashed(line[DIGITS:]) == line]
        self._known = dict(json.loads(line[DIGITS:]) for line in whole)
        if whole != lines:
            write_text(file, "".join(f"{line}\n" for line in whole))

    def of(self, name: str, measure: Callable[[], float]) -> float:
        """The distance called `name`, which `measure` computes if it is not known."""
        if self._ranks.any(name in self._known):
            return self._ranks.of_first(self._known.get(name, 0.0))
        distance = self._ranks.of_first(measure())
        if self._ranks.rank == 0:
            self._known[name] = distance
            append_line(self._file, _hashed(json.dumps([name, distance])))
        return distance


def _hashed(line: str) -> str:
    """A line with its hash before it."""
    return hashlib.sha256(line.encode()).hexdigest()[:DIGITS] + line


@dataclass(frozen=True)
class Selection:
    """Measures averages of one model on the same seeds.

    Attributes:
        reference: what samples are measured against.
        codec: the codec of data/codec, which the model must have been trained with.
        snapshots: folder of the model's snapshots.
        ranks: this process and the others, which share the samples.
        say: prints a line of progress.
        measured: distances of these snapshots, measured before under the same parameters.
        ways: returns the candidate ways to sample a model with this header.
        samplers: returns the samplers of a model with this header at a guidance scale and t_mid, fewest evaluations
            first.
        samples: number of samples that decide.
        coarse: number of samples of a first look, after which the better half goes on; None = no first look.
        refine: rounds of a finer search.
        points: number of points of a student's run at which the chosen average is measured.
        batch: samples that are drawn at once.
    """

    reference: Reference
    codec: Codec
    snapshots: Path
    ranks: Ranks
    say: Callable[[str], None]
    measured: Measured
    ways: Callable[[Header], Sequence[Way]]
    samplers: Callable[[Header, float, float | None], Sequence[Sampler]]
    samples: int
    coarse: int | None
    refine: int
    points: int
    batch: int

    def best(self, sigma_rels: Sequence[float]) -> tuple[State, Header, list[Figures]]:
        """Finds the best average among all lengths, guidance scales and, for students in two steps, t_mid.

        Returns:
            The best average's state; its header, with `guidance_scale` and t_mid; and a row of figures for each
            candidate: sigma_rel, guidance (if it differs), t_mid, samples (if they differ), fd and, for students,
            fd_1step. `chosen` returns the best one's row.
        """
        first, rows = list[Figures](), list[Figures]()
        best: tuple[State, Header] = ({}, {})
        planned = self._given(sigma_rels)
        # A first look on few samples halves the candidates.
        if self.coarse is not None and self.coarse < self.samples:
            first = [row for each in planned for row in self._rows(*each, self.coarse)]
            planned = self._given(sigma_rels, better_half(first))
        # The candidates of params.yaml, then rounds of finer ones around the best so far.
        for turn in range(1 + self.refine):
            for state, header, ways in self._finer([*first, *rows], best) if turn else planned:
                for row in self._rows(state, header, ways, self.samples):
                    if _finite(row) < min(map(_finite, rows), default=math.inf):
                        way = {"guidance_scale": row["guidance"], "t_mid": row.get("t_mid")}
                        best = state, {**header, **{key: value for key, value in way.items() if value is not None}}
                    rows.append(row)
            if not best[0]:
                name = self.snapshots.parent.name
                raise UserError(f"{name}: no average has a finite Frechet distance; see the curves of its training")
        return *best, telling([*first, *rows])

    def _given(self, sigma_rels: Sequence[float], kept: Sequence[Figures] | None = None) -> Iterator[Planned]:
        """Yields the averages of params.yaml, each with the ways to sample it; only those of rows `kept`, if any."""
        places = None if kept is None else {_place(row) for row in kept}
        lengths = [each for each in sigma_rels if places is None or any(each == place[0] for place in places)]
        found = averages(self.snapshots, lengths)  # which only rank 0 goes through
        while (average := self._read(lambda: next(found, None))) is not None:
            state, header = average
            ways = [way for way in self.ways(header) if places is None or (header["sigma_rel"], *way) in places]
            if ways:
                yield state, header, ways

    def _finer(self, rows: Sequence[Figures], best: tuple[State, Header]) -> Iterator[Planned]:
        state, header = best
        lengths, ways = finer(rows, header)
        for sigma_rel in lengths:
            yield *self._reconstructed(sigma_rel), [_way(header)]
        if ways:
            yield state, header, ways

    def progress(self, header: Header, choice: Figures) -> Iterator[Figures]:
        """Yields the figures of the chosen average (row `choice`) along the run; a teacher's only at the end."""
        times, figures = snapshot_times(self.snapshots), {key: choice[key] for key in DISTANCES if key in choice}
        alone = header["model"] == TEACHER or "halflife" in header
        points = 1 if alone else min(self.points, len(times))
        for point in range(1, points):
            images = times[len(times) * point // points - 1]
            state, then = self._reconstructed(header["sigma_rel"], until=images)
            (row,) = self._rows(state, then, [_way(header)], self.samples)
            yield {"images": images, **{key: row[key] for key in figures}}
        yield {"images": times[-1], **figures}

    def _reconstructed(self, sigma_rel: float, until: int | None = None) -> tuple[State, Header]:
        average = self._read(lambda: reconstruct(self.snapshots, sigma_rel, until))
        assert average is not None
        return average

    def _read(self, read: Callable[[], tuple[State, Header] | None]) -> tuple[State, Header] | None:
        """What rank 0 reads, on the CPU of every process: the snapshots can be hundreds of GB."""
        found = self.ranks.read_once(read)
        return None if found is None else ({name: value.cpu() for name, value in found[0]}, found[1])

    def _rows(self, state: State, header: Header, ways: Sequence[Way], count: int) -> Iterator[Figures]:
        """Yields a row of figures for an average sampled in each of these ways, on `count` samples.

        "fd" is measured with the sampler of the most steps. For a student in two steps, "fd_1step" is added, except in
        a first look, which only sorts the candidates.
        """
        model, whole = model_of(state, header, self.ranks.device), self.samples

        def distance(scale: float, t_mid: float | None, which: int) -> float:
            sampler = self.samplers(header, scale, t_mid)[which]
            length = f"halflife {header['halflife']}" if "halflife" in header else f"sigma_rel {header['sigma_rel']}"
            name = f"{header['images']} images, {length}, {sampler.nfe} evaluations"
            name += f", guidance {scale}" if scale != 1 else ""
            name += f", t_mid {t_mid}" if t_mid is not None and which else ""
            name += f", {count} samples" if count != whole else ""
            return self.measured.of(name, lambda: self._distance(model, header, sampler, scale, count))

        for scale, t_mid in ways:
            row: Figures = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
            row |= {"guidance": scale, **({} if t_mid is None else {"t_mid": t_mid}), "samples": int(count)}
            row |= {"fd": distance(scale, t_mid, -1)}
            row |= {"fd_1step": distance(scale, t_mid, 0)} if t_mid is not None and count == whole else {}
            told = (f"{key} {value:{'.4g' if isinstance(value, float) else ''}}" for key, value in row.items())
            self.say("  ".join([f"{header['images']} images", *told]))
            yield row

    def _distance(self, model: Model, header: Header, sampler: Sampler, scale: float, count: int) -> float:
        """The Frechet distance of `count` samples; only rank 0's return value counts."""
        ranks, codec = self.ranks, self.codec
        codec.check(header["codec"], str(self.snapshots))
        labels, shape = asked_labels(self.reference.labels, count), codec.header["shape"]
        place = self.batch, ranks.device, scale, ranks.rank, ranks.world
        drawn = batches(model, sampler, range(count), labels, shape, *place)
        features, _ = sampled_features(drawn, count, codec.decode, self.reference, ranks)
        return self.reference.distance_of(features) if ranks.rank == 0 else 0.0


def _way(header: Header) -> Way:
    """The way in which the average with this header is sampled."""
    return header["guidance_scale"], header.get("t_mid")


def _place(row: Figures) -> tuple[float | None, float, float | None]:
    """The candidate that a row belongs to: sigma_rel, guidance scale, t_mid."""
    return row.get("sigma_rel"), row["guidance"], row.get("t_mid")


def better_half(rows: Sequence[Figures]) -> list[Figures]:
    """The half of the rows with the smaller distances, rounded up, at least two; all on equally many samples."""
    return sorted(rows, key=_finite)[: max(2, math.ceil(len(rows) / 2))]


def telling(rows: Sequence[Figures]) -> list[Figures]:
    """The rows without the columns guidance and samples if these are the same in every row."""
    same = [key for key in ("guidance", "samples") if len({row[key] for row in rows}) == 1]
    return [{key: value for key, value in row.items() if key not in same} for row in rows]


def chosen(rows: Sequence[Figures]) -> Figures:
    """The best of the rows of `Selection.best`, among those on as many samples as the last one."""
    return min((row for row in rows if row.get("samples") == rows[-1].get("samples")), key=_finite)


def _finite(row: Figures) -> float:
    """The row's distance for sorting; NaN and infinity come last."""
    return row["fd"] if math.isfinite(row["fd"]) else math.inf


def finer(rows: Sequence[Figures], best: Header) -> tuple[list[float], list[Way]]:
    """The next candidates: halfway to the best one's neighbours in length (geometric mean), scale and t_mid (mean).

    Args:
        rows: rows of all candidates so far; their figures are not read.
        best: header of the best average. An average by half-life and an imported one have no neighbours in length.

    Returns:
        New lengths, to be sampled in the best way; and new ways to sample the best length.
    """
    lengths, (scale, t_mid) = [], _way(best)
    if "halflife" not in best and best["sigma_rel"] is not None:
        lengths = between([row["sigma_rel"] for row in rows], best["sigma_rel"], lambda a, b: math.sqrt(a * b), 4)
    ways: list[Way] = [(each, t_mid) for each in between([row["guidance"] for row in rows], scale, _mean, 3)]
    if t_mid is not None:
        ways += [(scale, each) for each in between([row["t_mid"] for row in rows], t_mid, _mean, 3)]
    return lengths, ways


def _mean(first: float, second: float) -> float:
    return (first + second) / 2


def between(tried: Sequence[float], best: float, middle: Callable[[float, float], float], digits: int) -> list[float]:
    """Values between the best one and its neighbours on either side, rounded, unless tried before."""
    smaller, larger = [value for value in tried if value < best], [value for value in tried if value > best]
    neighbours = sorted(smaller)[-1:] + sorted(larger)[:1]
    found = [round(middle(value, best), digits) for value in neighbours]
    return [value for value in found if value not in tried]
