"""The training loop: one for every objective.

A step is a function of (seed, images seen, weights, optimiser state, averages) alone: its data, noise and dropout come
from generators named by the images seen. So a run that is killed at any moment and started again from its last
checkpoint ends with the same bits as one that was never interrupted.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.progress import clock
from scm.base.randomness import generator, global_draws, seed_of
from scm.ema.profiles import relative_width
from scm.ema.reconstruct import HALFLIFE_FILE, snapshot_file
from scm.ema.tracker import Averages
from scm.errors import Interrupted, UserError
from scm.networks import Model
from scm.networks.dropout import samples_from
from scm.networks.layers import recompute_blocks, recomputed
from scm.objectives.protocol import Batch, Losses, Objective
from scm.training import checkpoint
from scm.training.ahead import Ahead, Data
from scm.training.diagnosis import Diagnosis
from scm.training.gradients import GradientMean, parts_of
from scm.training.health import HealthFigures
from scm.training.late import Late
from scm.training.loss_scale import LossScale
from scm.training.record import SNAPSHOTS, Record
from scm.training.room import bytes_written, shortage
from scm.training.settings import Auxiliary, LoopSettings, make_optimizer
from scm.training.shares import Shares, numbers_kept
from scm.training.update import update
from scm.training.watch import Watch

Checkpointing = Literal["auto", "none", "blocks"]
"""Values of runtime.checkpointing."""
COUNTERS = ("images", "step", "skipped", "skipped_in_a_row", "micro_batch", "recomputes")
"""Attributes of the trainer that a checkpoint keeps in its header."""
ENOUGH = 16
"""Images at a time that keep a GPU busy: with fewer, computing activations again costs less than it gains."""
MAX_SKIPPED = 20
"""A run ends after this many steps in a row with a non-finite gradient."""


class Trainer:
    """A run in a work folder, which holds the checkpoint, the snapshots and metrics.jsonl.

    Args:
        work: folder of this run; a checkpoint found there is resumed.
        stopping: called in each step; True saves the state and raises Interrupted.
        say: prints a line of progress.
        auxiliary: the module that the objective trains beside the model.
        probe: measures the model with an average's weights, at each snapshot; returns figures by name.
        micro_batch: images that a process computes at a time, at most; None = as many as its GPU's memory holds.
        checkpointing: `blocks` stores no activations of the networks' blocks, `none` stores them all, `auto` does so
            until the memory holds fewer than ENOUGH images with them. Results do not depend on it.
        recomputed: evaluates a block without storing its activations.
        divided: True divides the optimiser's state and the averages over the processes, which changes no weight.
        watch: looks at the training, in rank 0 alone.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        data: Data,
        settings: LoopSettings,
        work: Path,
        ranks: Ranks,
        stopping: Callable[[], bool],
        say: Callable[[str], None],
        auxiliary: Auxiliary | None = None,
        probe: Callable[[Model, Mapping[str, Tensor]], Mapping[str, float]] | None = None,
        micro_batch: int | None = None,
        checkpointing: Checkpointing = "auto",
        recomputed: Callable[..., Tensor] = recomputed,
        divided: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.data = Ahead(data, settings.batch, pinned=ranks.device.type == "cuda")
        self.work, self.ranks, self.stopping, self.say, self.probe = work, ranks, stopping, say, probe
        self.record, self.watch = Record(work), watch
        self.trained = nn.ModuleList([model] if auxiliary is None else [model, auxiliary.module])
        self.parameters = list(self.trained.parameters())
        averages = len(settings.profiles) + (settings.halflife is not None)
        self.shares = Shares(numbers_kept(self.trained, model, averages), ranks, divided)
        self.optimizer = make_optimizer(model, auxiliary, settings, self.shares.keeps)
        self.gradient_mean = GradientMean(self.parameters, ranks)
        self.micro_batch, self.given_micro_batch = micro_batch or settings.batch, micro_batch
        self.checkpointing, self.recomputed, self.recomputes = checkpointing, recomputed, False
        self.averages = Averages(model, settings.profiles, settings.halflife, self.shares.keeps)
        self.health = HealthFigures(ranks.device)
        self.outcomes = Late[list[Losses]](ranks.device)
        self.images = self.step = self.skipped = self.skipped_in_a_row = 0
        self.gradient_norm = self.gradient_norm_max = 0.0
        self.asked_to_stop = False
        self.probed: dict[str, float] = {}
        self.started = (time.monotonic(), 0)
        self.diagnosis = Diagnosis(settings.context)
        self.loss_scale = LossScale(device=ranks.device) if settings.half_precision else None

    def run(self) -> None:
        """Trains to the end of the budget.

        Raises:
            Interrupted: the run was asked to stop, and has saved its state.
            UserError: MAX_SKIPPED steps in a row had no finite gradient.
        """
        self._resume()
        if self.recomputes or self.checkpointing == "blocks":
            self._recompute()
        self._say_if_too_little_room()
        total = self.settings.images
        self.trained.train()
        self.started, last_line = (time.monotonic(), self.images), self.images
        last_checkpoint = self.started
        while self.images < total:
            self._step()
            done = self.images >= total
            stop = not done and self.asked_to_stop
            self._snapshot_if_due()
            if done or stop or self.images - last_line >= self.settings.log_every:
                self._take_outcomes(newest=True)
                self._write_line()
                last_line = self.images
                if done or stop or self._checkpoint_is_due(*last_checkpoint):
                    self._save()
                    last_checkpoint = (time.monotonic(), self.images)
            if stop:
                raise Interrupted(f"stopped at {self.images:,} of {total:,} images; run the same command to go on")

    def _step(self) -> None:
        settings, seen = self.settings, self.images
        for group in self.optimizer.param_groups:
            group["lr"] = settings.schedule.at(seen) * group["lr_scale"]
        found = self._backward(seen)
        # All ranks see the same gradient from here on, so they all step or all skip.
        if self.loss_scale is not None:
            self.loss_scale.unscale(self.parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        finite = norm.isfinite()
        too_large = torch.zeros_like(finite) if self.loss_scale is None else self.loss_scale.after(finite)
        if self.loss_scale is not None:
            finite = finite & (norm > 0)  # no gradient at all: every sample was left out
        stop = self.ranks.total(norm.new_full((), float(self.stopping())))
        update(self.trained, self.optimizer, finite, self.shares.spread)
        self.outcomes.send(torch.stack([norm, too_large, stop]), found)
        self._take_outcomes()
        self.step += 1  # the images of a skipped step still count
        self.images += settings.batch
        self.averages.update(self.images, settings.batch)

    def _backward(self, seen: int) -> list[Losses]:
        """Computes the gradients of the batch after `seen` images; returns the losses of its parts.

        A GPU whose memory does not hold the activations of a part gets smaller parts, from now on.
        """
        # Data and random draws are functions of the images seen, so that a resumed run repeats them.
        x_0, labels = (values.to(self.ranks.device, non_blocking=True) for values in self.data.batch_at(seen))
        while True:
            parts = parts_of(len(x_0), self.micro_batch)
            self.trained.zero_grad(set_to_none=True)  # the optimiser may have a share of the parameters alone
            try:
                return [self._backward_of(part, parts, x_0, labels, seen) for part in range(parts)]
            except torch.OutOfMemoryError:
                self._halve(len(x_0) // parts)

    def _halve(self, count: int) -> None:
        """Makes parts of at most half of `count` images, for which the memory was too small.

        Parts that would become too small to keep a GPU busy grow again without stored activations.

        Raises:
            UserError: the images cannot be divided, or other processes have a part of this step's gradient.
        """
        problem = f"the memory of {self.ranks.device} does not hold {count} images at a time"
        recompute = self.checkpointing == "auto" and not self.recomputes and count < 2 * ENOUGH
        if count == 1 and not recompute:
            raise UserError(f"{problem}: take precision bf16, a smaller network or a GPU with more memory") from None
        if self.gradient_mean.begun:
            remedy = "runtime.checkpointing to blocks" if recompute else f"runtime.micro_batch to {count // 2}"
            raise UserError(f"{problem}: set {remedy}") from None
        if recompute:
            self.say(f"{problem}: activations are computed again in the backward pass from now on")
            self._recompute()
            self.micro_batch = self.given_micro_batch or self.settings.batch
            return
        self.micro_batch = count // 2
        self.say(f"{problem}: at most {self.micro_batch} from now on")

    def _recompute(self) -> None:
        """From now on the backward pass computes the activations of the networks' blocks again, with the same bits."""
        self.recomputes = True
        recompute_blocks(self.trained, self.recomputed)

    def _backward_of(self, part: int, parts: int, x_0: Tensor, labels: Tensor, seen: int) -> Losses:
        """Adds the gradients of one part of this rank's samples; the last part's pass averages them over the ranks."""
        settings, rank, count = self.settings, self.ranks.rank * parts + part, len(x_0) // parts
        own = slice(part * count, (part + 1) * count)
        draws = generator(settings.seed, f"{settings.purpose} noise", seen, device=x_0.device)
        batch = Batch(x_0[own], labels[own], draws, rank, self.ranks.world * parts)
        dropped = global_draws(seed_of(settings.seed, f"{settings.purpose} dropout", seen))
        with dropped, samples_from(rank * count):
            losses = self.objective(self.model, batch, seen)
            loss = losses.value.mean() / parts
            with self.gradient_mean.last_part() if part == parts - 1 else nullcontext():
                (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()
        return losses.detached()

    def _take_outcomes(self, *, newest: bool = False) -> None:
        """Counts what has become of earlier steps, and of this one unless a GPU may still be at it."""
        for (norm, too_large, stop), found in self.outcomes.arrived(newest=newest):
            self.gradient_norm = norm
            finite = math.isfinite(norm) and (norm > 0 or self.loss_scale is None)
            self.asked_to_stop |= stop > 0
            for losses in found:
                self.health.add(losses) if finite else self.health.add_skipped(losses)
            if finite:
                self.gradient_norm_max, self.skipped_in_a_row = max(self.gradient_norm_max, norm), 0
            else:
                self._skip(diverging=not too_large)

    def _skip(self, *, diverging: bool) -> None:
        self.skipped += 1
        self.skipped_in_a_row += diverging
        if self.skipped_in_a_row >= MAX_SKIPPED:
            self._write_line()
            if self.ranks.rank:  # only rank 0 has the diagnosis
                raise UserError(f"rank {self.ranks.rank} ends: the training diverged, as rank 0 explains")
            raise UserError(
                f"training diverged: {MAX_SKIPPED} steps in a row without a finite gradient, at {self.images:,} "
                f"images: {self.diagnosis.summary()}"
            )

    def _snapshot_if_due(self) -> None:
        """Writes the averages whenever another 1/snapshots of the budget is done."""
        settings = self.settings
        before = (self.images - settings.batch) * settings.snapshots // settings.images
        if min(self.images, settings.images) * settings.snapshots // settings.images != before:
            self._snapshot()

    def _snapshot(self) -> None:
        """Has rank 0 write one file for each average."""
        settings = self.settings
        files = [(snapshot_file(self.images, length), {"sigma_rel": length}) for length in settings.profiles]
        if settings.halflife is not None and self.images >= settings.images:
            width = {"halflife": settings.halflife, "sigma_rel": relative_width(settings.halflife, self.images)}
            files.append((HALFLIFE_FILE, width))
        for (name, width), average in zip(files, self.averages.averages, strict=False):
            whole = self.shares.whole(average)
            self.ranks.first(partial(self._write_snapshot, self.work / SNAPSHOTS / name, width, whole))

    def _write_snapshot(self, file: Path, width: dict[str, float], average: Mapping[str, Tensor]) -> None:
        # The network needs its buffers as well.
        buffers = {key: value for key, value in self.model.named_buffers() if key in self.model.state_dict()}
        header = {**self.settings.header, "images": self.images, "buffers": sorted(buffers), **width}
        weights.save(file, {**average, **buffers}, header)
        self.record.add_snapshot(file)
        # The shortest average follows the training most closely, so it shows a bad turn first.
        if width != {"sigma_rel": min(self.settings.profiles)} or (self.probe is None and self.watch is None):
            return
        there = {key: value.to(self.ranks.device) for key, value in average.items()}
        if self.probe is not None:
            self.probed = dict(self.probe(self.model, there))
        if self.watch is not None:
            self.watch.snapshot(self.model, there, self.settings.header, self.images)

    def _figures(self) -> dict[str, Any]:
        """The figures since the last line; None = no such figure."""
        line = {
            "images": self.images,
            "time": time.time(),
            "step": self.step,
            "lr": self.settings.schedule.at(max(self.images - self.settings.batch, 0)),
            "grad_norm": self.gradient_norm if math.isfinite(self.gradient_norm) else None,
            "grad_norm_max": self.gradient_norm_max or None,
            "skipped": self.skipped,
            "loss_scale": None if self.loss_scale is None else self.loss_scale.value.item(),
            **self.probed,
            **self.health.read(self.ranks.total),
        }
        self.gradient_norm_max, self.probed = 0.0, {}
        return line

    def _write_line(self) -> None:
        """Appends a line to metrics.jsonl, and prints a summary of it and any new findings."""
        settings, (moment, images) = self.settings, self.started
        seconds = time.monotonic() - moment
        rate = (self.images - images) / seconds
        line = {**self._figures(), "images_per_second": rate, "data_wait": self.data.waited / seconds}
        if self.ranks.rank:
            return
        # The checkpoint that follows relies on this line.
        self.record.add_line(json.dumps({k: v for k, v in line.items() if v is not None}, allow_nan=True))
        left = max(settings.images - self.images, 0) / max(rate, 1e-9)
        loss = f"  loss {line['loss']:.4f}" if "loss" in line else ""  # no loss if the student rested in every step
        tangent = f"  tangent {line['tangent_norm']:.3g}" if "tangent_norm" in line else ""
        self.say(
            f"{self.images / settings.images:4.0%}  {self.images:,}/{settings.images:,} images  {rate:,.0f}/s  "
            f"ETA {clock(left)}{loss}  grad {self.gradient_norm:.3g}{tangent}"
            + (f"  skipped {self.skipped}" if self.skipped else "")
        )
        for finding in self.diagnosis.add(line):
            self.say(f"health: {finding}")
        if self.watch is not None:
            self.watch.add(line, self._health())

    def _checkpoint_is_due(self, moment: float, images: int) -> bool:
        """Compares the last checkpoint's moment and images with the settings; rank 0's clock counts on all ranks."""
        every, minutes = self.settings.checkpoint_every, self.settings.checkpoint_minutes
        if every is not None and self.images - images >= every:
            return True
        return minutes is not None and self.ranks.of_first(time.monotonic() - moment) >= 60 * minutes

    def _save(self) -> None:
        # A resumed run adds up the same parts, and all ranks have the same from here on.
        self.micro_batch = self.ranks.least(self.micro_batch)
        if self.ranks.any(self.recomputes):
            self._recompute()
        counters = {name: getattr(self, name) for name in COUNTERS}
        counters["precision"] = self.settings.header.get("precision")
        counters["loss_scale"] = None if self.loss_scale is None else self.loss_scale.state()
        header = {**counters, **self.record.state()}
        checkpoint.save(self.work, self.trained, self.optimizer, self.averages, header, self.shares)

    def _resume(self) -> None:
        """Restores the last checkpoint, verifies what it stands on and deletes what was written after it."""
        header = checkpoint.restore(self.work, self.trained, self.optimizer, self.averages, self.shares)
        if header:
            for name in COUNTERS:
                setattr(self, name, header[name])
            self.micro_batch = self.given_micro_batch or self.micro_batch
            self.recomputes &= self.checkpointing != "none"
            self._require_precision(header.get("precision"))
            if self.loss_scale is not None:
                self.loss_scale = LossScale(*header["loss_scale"], device=self.ranks.device)
            self.say(f"resuming at {self.images:,} images")
        self.ranks.first(lambda: self._restore_record(header))

    def _require_precision(self, begun: str | None) -> None:
        """Refuses to go on in another format, which `precision: auto` may choose on another machine."""
        own = self.settings.header.get("precision")
        if begun not in (None, own):
            remedy = f"go on where it began, or delete {self.work} to train from the beginning"
            raise UserError(f"{self.work} was begun in {begun}, and this machine computes in {own}: {remedy}")

    def _restore_record(self, header: dict[str, Any] | None) -> None:
        lines = [json.loads(line) for line in self.record.restore(header)]
        for line in lines:
            self.diagnosis.add(line)
        if self.watch is not None:
            self.watch.resumed(self.images, lines, self._health())

    def _health(self) -> list[str]:
        return [str(finding) for finding in self.diagnosis.findings]

    def _say_if_too_little_room(self) -> None:
        settings = self.settings
        total, own = (sum(value.numel() for value in module.parameters()) for module in (self.trained, self.model))
        left = settings.snapshots - min(self.images, settings.images) * settings.snapshots // settings.images
        halflife = settings.halflife is not None
        needed = bytes_written(own, total - own, len(settings.profiles), left, halflife)
        warning = shortage(self.work, needed, "this training writes") if self.images < settings.images else None
        if warning is not None and self.ranks.rank == 0:
            self.say(warning)
