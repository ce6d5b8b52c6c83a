"""Choose the average of a model's weights, and its guidance scale and t_mid for each number of steps (sec. 6).

A model has one average (EDM2 sec. 3), the best one in its largest number of steps. The candidates of params.yaml are
measured first. If `select.coarse` is a number, all are measured on so many samples, and the better half again on
`select.samples`. Each of `select.refine` rounds then adds candidates halfway between the best one and its neighbours.
Of the average that is found, the ways to sample it in fewer steps are measured in the same manner.

All use the same seeds, so their differences are less noisy than the figures; `with_noise` says by how much.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from scm.evaluation.candidates import (
    Candidate,
    Figures,
    Way,
    better_half,
    finer_lengths,
    finer_ways,
    telling,
    with_noise,
)
from scm.evaluation.figures import sampled_features
from scm.evaluation.jackknife import blocks_of, without_blocks
from scm.evaluation.reference import Reference
from scm.generation.generate import asked_labels, batches
from scm.generation.sampler import Sampler
from scm.generation.trained import model_of
from scm.networks import Model

State = dict[str, Tensor]
Header = dict[str, Any]
Average = tuple[State, Header]
DIGITS = 16
"""Length of the hash before each measured line."""
Planned = tuple[State, Header, Sequence[Way]]
"""An average, and the ways to measure it in."""
Drawn = tuple[slice, Tensor, float]
"""A batch of samples: their rows among all, the samples, and the seconds that they took."""


class Measured:
    """Distances measured so far, kept in a file of JSON lines, so that an interrupted search continues.

    Only rank 0 reads and writes the file and tells the other ranks its values; all ranks measure what it lacks.
    """

    def __init__(self, file: Path, ranks: Ranks) -> None:
        """Reads what an interrupted run has left, but for lines that are cut or damaged, which it drops."""
        self._file, self._ranks, self._known = file, ranks, dict[str, list[float]]()
        if ranks.rank:
            return
        lines = file.read_bytes().decode(errors="replace").splitlines() if file.exists() else []
        whole = [line for line in lines if _hashed(line[DIGITS:]) == line]
        self._known = dict(json.loads(line[DIGITS:]) for line in whole)
        if whole != lines:
            write_text(file, "".join(f"{line}\n" for line in whole))

    def of(self, name: str, count: int, measure: Callable[[], list[float]]) -> list[float]:
        """The `count` distances called `name`, which `measure` computes if they are not known."""
        known = self._known.get(name, [0.0] * count) if self._ranks.any(name in self._known) else None
        distances = [self._ranks.of_first(each) for each in (measure() if known is None else known)]
        if self._ranks.rank == 0 and known is None:
            self._known[name] = distances
            append_line(self._file, _hashed(json.dumps([name, distances])))
        return distances


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
        ways: returns the candidate ways to sample a model with this header, those in the fewest steps first.
        sampler: returns the sampler of so many steps for a header with `sampling`.
        samples: number of samples that decide.
        coarse: number of samples of a first look, after which the better half goes on; None = no first look.
        refine: rounds of a finer search.
        points: number of points of a student's run at which the chosen average is measured.
        batch: samples that are drawn at once.
        guide: gives an average the network that guides it; None = there is none.
    """

    reference: Reference
    codec: Codec
    snapshots: Path
    ranks: Ranks
    say: Callable[[str], None]
    measured: Measured
    ways: Callable[[Header], Sequence[Way]]
    sampler: Callable[[Header, int], Sampler]
    samples: int
    coarse: int | None
    refine: int
    points: int
    batch: int
    guide: Callable[[Average], Average] | None = None

    def best(self, sigma_rels: Sequence[float]) -> tuple[State, Header, list[Figures]]:
        """Finds the average that is best in the most steps, and the best way to sample it in each number of steps.

        Returns:
            The best average's state; its header, with `sampling`, the choice for each number of steps; and a row of
            figures for each candidate: sigma_rel, steps, guidance and samples (where they differ), t_mid, fd and
            noise, the standard error of its distance from the best one's. `chosen` returns the best ones.
        """
        looked, planned = list[Candidate](), self._given(sigma_rels)
        # A first look on few samples halves the candidates.
        if self.coarse is not None and self.coarse < self.samples:
            looked = [each for average in planned for each in self._measured(*average, self.coarse)]
            planned = self._given(sigma_rels, better_half(looked))
        (state, header, best), found = self._searched(planned, looked)
        # Fewer steps have a guidance scale of their own, but the same average.
        sampling, rows = {best.steps: best.choice}, [*(each.row for each in looked), *with_noise(found)]
        ways = [way for way in self.ways(header) if way.steps != best.steps]
        for steps in sorted({way.steps for way in ways}, reverse=True):
            average = state, header, [way for way in ways if way.steps == steps]
            (*_, way), found = self._searched([average], [], other_lengths=False)
            sampling, rows = {steps: way.choice, **sampling}, [*rows, *with_noise(found)]
        return state, {**header, "sampling": sampling}, telling(rows)

    def _searched(
        self, planned: Iterable[Planned], looked: Sequence[Candidate], *, other_lengths: bool = True
    ) -> tuple[tuple[State, Header, Way], list[Candidate]]:
        """Measures the planned candidates, then rounds of finer ones around the best so far.

        Args:
            looked: candidates of a first look, which count as neighbours.
            other_lengths: False searches the ways to sample one average alone.
        """
        best, found = None, list[Candidate]()
        for turn in range(1 + self.refine):
            if turn and best is not None:
                planned = self._finer([*looked, *found], *best, other_lengths)
            for state, header, ways in planned:
                for candidate in self._measured(state, header, ways, self.samples, blocks_of(self.samples)):
                    if candidate.distance < min((each.distance for each in found), default=math.inf):
                        best = state, header, candidate.way
                    found.append(candidate)
            if best is None:
                name = self.snapshots.parent.name
                raise UserError(f"{name}: no average has a finite Frechet distance; see the curves of its training")
        assert best is not None
        return best, found

    def _given(self, sigma_rels: Sequence[float], kept: Sequence[Candidate] | None = None) -> Iterator[Planned]:
        """Yields the averages of params.yaml, each with its ways in the most steps; only the candidates `kept`."""
        places = None if kept is None else {(each.row.get("sigma_rel"), each.way) for each in kept}
        lengths = [each for each in sigma_rels if places is None or any(each == length for length, _ in places)]
        found = averages(self.snapshots, lengths)  # which only rank 0 goes through
        while (average := self._read(lambda: next(found, None))) is not None:
            state, header = average
            ways, length = self.ways(header), header["sigma_rel"]
            most = [way for way in ways if way.steps == ways[-1].steps]
            if some := [way for way in most if places is None or (length, way) in places]:
                yield state, header, some

    def _finer(
        self, found: Sequence[Candidate], state: State, header: Header, best: Way, other_lengths: bool
    ) -> Iterator[Planned]:
        if other_lengths:
            for sigma_rel in finer_lengths([each.row for each in found], header):
                yield *self._reconstructed(sigma_rel), [best]
        if ways := finer_ways([each.way for each in found], best):
            yield state, header, ways

    def progress(self, header: Header, choice: Figures) -> Iterator[Figures]:
        """Yields the figures of the chosen average (row `choice`) along the run; a teacher's only at the end."""
        times, ways = snapshot_times(self.snapshots), [Way.of(*each) for each in header["sampling"].items()]
        names = {way.steps: "fd" if way == ways[-1] else f"fd_{way.steps}step" for way in ways}
        alone = header["model"] == TEACHER or "halflife" in header
        points = 1 if alone else min(self.points, len(times))
        for point in range(1, points):
            images = times[len(times) * point // points - 1]
            state, then = self._reconstructed(header["sigma_rel"], until=images)
            found = {each.way: each.row["fd"] for each in self._measured(state, then, ways[::-1], self.samples)}
            yield {"images": images, **{names[way.steps]: found[way] for way in reversed(ways)}}
        yield {"images": times[-1], **{name: choice[name] for name in reversed(names.values())}}

    def _reconstructed(self, sigma_rel: float, until: int | None = None) -> tuple[State, Header]:
        average = self._read(lambda: reconstruct(self.snapshots, sigma_rel, until))
        assert average is not None
        return average

    def _read(self, read: Callable[[], tuple[State, Header] | None]) -> tuple[State, Header] | None:
        """What rank 0 reads, on the CPU of every process: the snapshots can be hundreds of GB."""
        found = self.ranks.read_once(read)
        if found is None:
            return None
        average = {name: value.cpu() for name, value in found[0]}, found[1]
        return average if self.guide is None else self.guide(average)

    def _measured(
        self, state: State, header: Header, ways: Sequence[Way], count: int, blocks: int = 0
    ) -> Iterator[Candidate]:
        """Yields a candidate for each of these ways to sample an average, measured on `count` samples.

        Args:
            blocks: number of blocks of samples; the distances without each of them are measured as well.
        """
        model = model_of(state, header, self.ranks.device)
        for way in ways:
            whole, *without = self._distances(model, header, way, count, blocks)
            row: Figures = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
            row |= {"steps": way.steps, "guidance": way.guidance, **({} if way.t_mid is None else {"t_mid": way.t_mid})}
            row |= {"samples": int(count), "fd": whole}
            told = (f"{key} {value:{'.4g' if isinstance(value, float) else ''}}" for key, value in row.items())
            self.say("  ".join([f"{header['images']} images", *told]))
            yield Candidate(row, way, without)

    def _distances(self, model: Model, header: Header, way: Way, count: int, blocks: int) -> list[float]:
        """The Frechet distance of `count` samples, and the distances without each block of them."""
        sampler = self.sampler({**header, "sampling": {way.steps: way.choice}}, way.steps)
        name = f"{sampler.nfe} evaluations"
        name += f", guidance {way.guidance}" if way.guidance != 1 else ""
        name += f", t_mid {way.t_mid}" if way.t_mid is not None else ""
        name += f", {count} samples" if count != self.samples else ""
        labels, shape = asked_labels(self.reference.labels, count), self.codec.header["shape"]
        place = self.batch, self.ranks.device, way.guidance, self.ranks.rank, self.ranks.world
        return self.distances(
            header, name, lambda: batches(model, sampler, range(count), labels, shape, *place), count, blocks
        )

    def distances(
        self, header: Header, name: str, draw: Callable[[], Iterable[Drawn]], count: int, blocks: int
    ) -> list[float]:
        """The Frechet distance of `count` samples of an average, and the distances without each block of them.

        Args:
            header: the average's.
            name: what tells these samples from other ones of the average.
            draw: draws this process's part of them in batches: their rows, the samples, and seconds.
            blocks: number of blocks of samples.
        """
        length = f"halflife {header['halflife']}" if "halflife" in header else f"sigma_rel {header['sigma_rel']}"

        def measure() -> list[float]:
            self.codec.check(header["codec"], str(self.snapshots))
            features, _ = sampled_features(draw(), count, self.codec.decode, self.reference, self.ranks)
            if self.ranks.rank:  # only rank 0's distances count
                return [0.0] * (1 + blocks)
            distance = self.reference.distance_of
            return [distance(features), *(distance(features[kept]) for kept in without_blocks(count, blocks))]

        return self.measured.of(f"{header['images']} images, {length}, {name}", 1 + blocks, measure)
