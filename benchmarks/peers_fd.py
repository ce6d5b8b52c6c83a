"""The time until few-step samples are good: `python -m benchmarks.peers --to-fd [--images ...] [--code sCM-mnist]`.

A student of one teacher is trained by the project's own loop in two ways, ours and with the split step, and, where
`--code` names a checkout of sCM-mnist, by its script with the script's own options (batch, learning rate, optimiser,
times, warm-up, limit of the tangent) on the same network. Teacher, data, seed of the project, extractor, samples and
the average of the weights are the same. Each training is a process with one thread, and they take turns. Ours and split
are the same arithmetic but for rounding; the script gets as many CPU seconds as the longer of both.

Counted are CPU seconds of the trainings' steps: batches, forward passes, backward pass, optimiser and averages. Imports
and measuring are not. The Frechet distance is that of `--samples` samples in `--sampled` steps of the average, measured
at the start and at `--points` places of the training; the first one below a value counts.

The project is made for the images as `scm init` would make it and trained up to its teacher, in a folder that is thrown
away, or in --project. A --project that has a teacher is used as it is, and nothing in it is changed.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers_imports import import_from, reason
from benchmarks.peers_losses import Asked, Networks, mnist_options, recognised
from benchmarks.peers_worker import Channel, Worker
from benchmarks.step_cost import tangent_by
from benchmarks.timebox import copied
from scm.base.distributed import Ranks
from scm.base.processes import end_with_parent, own_environment
from scm.base.tables import markdown_table
from scm.build.models import device_of, new_student, student_header, with_precision
from scm.build.training import TrainingData, fitting_teacher, student_objective, training_settings
from scm.data.latents.autoencoders import load_codec
from scm.ema.tracker import Averages
from scm.errors import UserError
from scm.evaluation.reference import load_reference
from scm.generation.generate import asked_labels, batches
from scm.generation.sampler import Sampler, consistency_sampler, heun_sampler, t_max_of
from scm.methods import StudentSettings
from scm.networks import Model
from scm.networks.magnitude import fix_weights, normalize_weights
from scm.params import Params, load
from scm.presets.apply import apply
from scm.results.provenance import machine_name
from scm.timebox.box import boxed
from scm.training.loop import Trainer

MODULE = "benchmarks.peers_fd"
TEACHER_FILE = "models/teacher/model.safetensors"
STAGES = ("prepare", "encode", "reference", "train_teacher", "select_ema teacher")
NEVER = 2**40
"""Images after which nothing happens."""
OURS, SPLIT, MNIST = "scm", "scm, split", "sCM-mnist"
MULTIPLES = (2.0, 1.5, 1.25, 1.1)
"""The values to reach, as multiples of the teacher's distance, unless they are given."""
Point = tuple[int, float, float]
"""Images, CPU seconds, distance."""


class Measure:
    """Distances of a project's models; all draw the same seeds and labels."""

    def __init__(self, root: Path, params: Params, samples: int) -> None:
        self.reference, self.codec = load_reference(root / "data/reference"), load_codec(root / "data/codec")
        self._labels, self._batch = asked_labels(self.reference.labels, samples), params.evaluate.batch
        self._seeds = range(params.evaluate.seed, params.evaluate.seed + samples)

    @torch.no_grad()
    def distance(self, model: Model, sampler: Sampler) -> float:
        """The Frechet distance of the model's samples; infinite if one of them is not finite."""
        features, shape = list[Tensor](), self.codec.header["shape"]
        for _, samples, _ in batches(model, sampler, self._seeds, self._labels, shape, self._batch, "cpu"):
            if not samples.isfinite().all():
                return math.inf
            features.append(self.reference.features_of(self.codec.decode(samples)))
        return self.reference.distance_of(torch.cat(features))


class Gate:
    """Lets a training take as many steps as it is asked for, and counts their CPU seconds.

    A training calls it once in each step; the answer to a question has the seconds so far, and what was measured.
    """

    def __init__(self, channel: Channel, start: Mapping[str, Any]) -> None:
        self.seconds, self._left, self._points = 0.0, 0, list[Point]()
        self._channel, self._questions = channel, channel.questions()
        channel.answer(dict(start))
        self._wait()

    def __call__(self) -> bool:
        if self._left == 0:
            self.answer()
            self._wait()
        self._left -= 1
        return False

    def answer(self, done: bool = False) -> None:
        self._pause()
        self._channel.answer({"seconds": self.seconds, "points": self._points, "done": done})
        self._points = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock."""
        self._pause()
        yield
        self._resume()

    def add(self, images: int, distance: float) -> None:
        self._points.append((images, self.seconds, distance))

    def _pause(self) -> None:
        self.seconds += time.process_time() - self._since

    def _resume(self) -> None:
        self._since = time.process_time()

    def _wait(self) -> None:
        question = next(self._questions, None)
        if question is None:
            raise SystemExit  # the parent has gone
        self._left = question["steps"]
        self._resume()


class Training:
    """A student's training in its process.

    Args:
        task: what `measure` asks for: the project, the student, how it is measured.
    """

    def __init__(self, task: Mapping[str, Any], channel: Channel) -> None:
        self.task, self.channel, self.root = task, channel, Path(task["project"])
        params = load(self.root / "params.yaml")
        self.params = params.model_copy(update={"seed": self.task["seed"]})
        self.ranks = Ranks.apart(device_of(params.runtime.model_copy(update={"device": "cpu", "threads": 1})))
        self.measure = Measure(self.root, params, self.task["samples"])
        settings = scaled(self.params.student.method(self.task["method"]), self.task["budget"])
        self.settings = with_precision(settings, self.ranks, say)
        self.data = self.data_of(self.settings.batch)
        self.teacher, self.header = fitting_teacher(self.root / TEACHER_FILE, self.data, self.settings)
        self.student = new_student(self.teacher, self.settings, self.params.seed)
        self.copy = new_student(self.teacher, self.settings, self.params.seed).eval()
        t_max = t_max_of(params.sampler.sigma_max, self.header["sigma_d"])
        times = [t_max, *(() if self.task["sampled"] == 1 else (self.task["t_mid"],))]
        self.sampler = consistency_sampler(times, self.header["sigma_d"])
        self.every = max(self.settings.images // self.task["points"], 1)

    def data_of(self, batch: int) -> TrainingData:
        return TrainingData(self.root / "data/latents", self.params.seed, batch, self.ranks, lambda _: None)

    def gate(self, **start: Any) -> Gate:
        """The gate of the training, which has measured the student at its start, where it is the teacher."""
        gate = Gate(self.channel, start)
        self.measured(gate, 0, {})
        return gate

    def measured(self, gate: Gate, images: int, average: Mapping[str, Tensor]) -> None:
        with gate.paused():
            self.copy.load_state_dict({**self.copy.state_dict(), **average})
            gate.add(images, self.measure.distance(self.copy, self.sampler))

    def ours(self, way: str) -> None:
        """The project's own loop, with the tangent computed in this way."""
        method, settings = self.task["method"], self.settings
        objective, auxiliary = student_objective(method, settings, self.params.sampler, self.teacher, self.params.seed)
        fix_weights(self.teacher)
        path = self.root / TEACHER_FILE
        header = student_header(method, settings, self.params.sampler, self.student, self.header, path)
        loop = training_settings(self.params, settings, f"student {method}", header)
        often = {"log_every": NEVER, "checkpoint_every": NEVER, "checkpoint_minutes": None, "halflife": None}
        loop = replace(loop, profiles=(self.task["average"],), snapshots=self.task["points"], **often)
        gate = self.gate(batch=settings.batch, images=settings.images)

        def probe(_: Model, average: Mapping[str, Tensor]) -> dict[str, float]:
            self.measured(gate, trainer.images, average)
            return {}

        with tempfile.TemporaryDirectory() as work, tangent_by(way):
            place = Path(work), self.ranks, gate, lambda _: None
            trainer = Trainer(self.student, objective, self.data, loop, *place, auxiliary, probe)
            trainer.run()
        gate.answer(done=True)

    def mnist(self, code: Path) -> None:
        """The script of sCM-mnist with its own options, until it is asked no more."""
        peer = recognised(code)
        import_from(code, peer.needless)
        script: Any = __import__("train_consistency")
        batch = mnist_options(script)["batch_size"]
        fix_weights(self.teacher)
        averages, data = Averages(self.student, (self.task["average"],)), self.data_of(batch)
        distils = self.task["method"] == "scd"
        networks = Networks(Asked(self.student.train()), Asked(self.teacher), data.batch_at(0), True, distils)
        gate = self.gate(batch=batch, options=str(mnist_options(script)))

        def steps() -> Iterator[None]:
            images = 0
            while not gate():
                networks.batch = data.batch_at(images)
                yield
                normalize_weights(self.student)  # the network's own, after each step of any optimiser
                images += batch
                averages.update(images, batch)
                if images // self.every != (images - batch) // self.every:
                    self.measured(gate, images, averages.averages[0])

        peer.run(networks, steps())

    def teacher_alone(self) -> None:
        """Answers with the distance of the teacher's full sampler."""
        levels = self.params.sampler
        full = heun_sampler(levels.teacher_steps, *levels.noise_levels, self.header["sigma_d"])
        self.channel.answer({"distance": self.measure.distance(self.teacher, full), "evaluations": full.nfe})


def scaled(settings: StudentSettings, budget: int | None) -> StudentSettings:
    """The settings for another budget of images, whose schedules end in proportion."""
    if budget is None:
        return settings
    part = budget / settings.images
    rate = settings.lr.model_copy(
        update={name: int(getattr(settings.lr, name) * part) for name in ("warmup", "decay_from")}
    )
    warmup = int(settings.tangent_warmup * part)
    return settings.model_copy(update={"images": budget, "lr": rate, "tangent_warmup": warmup})


def prepared(options: argparse.Namespace, folder: Path) -> Path:
    """A project with a teacher: the given one, or a new one in `folder` for the images.

    Raises:
        UserError: --project has other files and no teacher, or no images.
    """
    root: Path = options.project or folder
    if (root / TEACHER_FILE).is_file():
        return root.absolute()
    if root.exists() and any(root.iterdir()):
        raise UserError(f"--project {root}: it has no {TEACHER_FILE}: give a finished project, or a new folder")
    copied(root)
    place = options.images.absolute() if options.images.exists() else options.images
    plan = boxed(root, place, options.minutes, options.resolution, True, say, True).plan
    apply(root / "params.yaml", root, plan.preset, further={**plan.values, "mlflow": {"enabled": False, "uri": None}})
    for stage in STAGES:
        say(f"stage {stage}")
        environment = {**own_environment(), "PYTHONPATH": str(root), "SCM_WORK": str(root / ".work")}
        command = [sys.executable, "-m", *f"stages.{stage}".split()]
        if subprocess.run(command, cwd=root, env=environment, stdout=sys.stderr, check=False).returncode:
            raise UserError(f"the stage {stage} failed: see its lines above")
    return root.absolute()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def take_turns(workers: Mapping[str, Worker], images: int) -> dict[str, list[Point]]:
    """Trains all in turns of about `images` images; the points of each."""
    points: dict[str, list[Point]] = {name: [] for name in workers}
    seconds, done, turn = dict.fromkeys(workers, 0.0), set[str](), 0
    while len(done) < len(workers):
        names = [name for name in (workers if turn % 2 == 0 else reversed(list(workers))) if name not in done]
        for name in names:
            worker = workers[name]
            found = worker.ask({"steps": max(images // worker.start["batch"], 1)})
            points[name] += [tuple(point) for point in found["points"]]
            seconds[name] = found["seconds"]
            if found["done"]:
                done.add(name)
            say(f"{name}: {seconds[name]:.0f} s of CPU" + (f", FD {points[name][-1][2]:.2f}" if points[name] else ""))
        if MNIST in workers and {OURS, SPLIT} <= done and seconds[MNIST] >= max(seconds[OURS], seconds[SPLIT]):
            done.add(MNIST)
        turn += 1
    return points


def reached(points: Sequence[Point], value: float) -> Point | None:
    """The first measured point whose distance is below the value."""
    return next((point for point in points if point[2] < value), None)


def rows(runs: Sequence[Mapping[str, Sequence[Point]]], values: Sequence[float]) -> list[list[str]]:
    """Cells for each value: seconds of each training (median of the seeds), beside ours'; – where one never got there.

    A ratio is the median over the seeds that both reach, and its range if there are several; the teacher's own few-step
    samples, with which all begin, have none.
    """
    result = list[list[str]]()
    for value in values:
        cells = [f"{value:.3g}"]
        for name in runs[0]:
            found = [(reached(run[OURS], value), reached(run[name], value)) for run in runs]
            there = [point[1] for _, point in found if point is not None]
            all_there = len(there) == len(runs)
            cells.append(f"{statistics.median(there):.1f}" if all_there else "–")
            if name == OURS:
                images = [own[0] for own, _ in found if own is not None]
                cells.append(f"{statistics.median(images):,.0f}" if all_there else "–")
                continue
            ratios = sorted(point[1] / own[1] for own, point in found if own and point and own[0] > 0)
            spread = f" ({ratios[0]:.2f}–{ratios[-1]:.2f})" if len(ratios) > 1 else ""
            cells.append(f"{statistics.median(ratios):.2f}{spread}" if ratios else "–")
        result.append(cells)
    return result


def curve(runs: Sequence[Mapping[str, Sequence[Point]]], seeds: Sequence[int]) -> list[list[str]]:
    """Every measured point."""
    return [
        [f"{seed}", name, f"{images:,}", f"{seconds:.1f}", f"{distance:.3f}"]
        for seed, run in zip(seeds, runs, strict=True)
        for name, points in run.items()
        for images, seconds, distance in points
    ]


def measure(options: argparse.Namespace) -> None:
    """Trains, measures and prints the tables."""
    code = {recognised(folder).name: folder for folder in options.code}
    further = [name for name in code if name != MNIST]
    with ExitStack() as outer:
        root = prepared(options, Path(outer.enter_context(tempfile.TemporaryDirectory())) / "project")
        params = load(root / "params.yaml")
        common = {"project": str(root), "method": options.method, "samples": options.samples, "points": options.points}
        common |= {
            "budget": options.budget,
            "sampled": options.sampled,
            "t_mid": options.t_mid,
            "average": options.average,
        }
        teacher = Worker({**common, "seed": 0, "kind": "teacher"}, MODULE)
        outer.callback(teacher.close)
        best, runs, told = teacher.start, list[dict[str, list[Point]]](), list[str]()
        for seed in options.seeds:
            with ExitStack() as stack:
                workers = dict[str, Worker]()
                tasks: dict[str, dict[str, Any]] = {OURS: {"way": "ours"}, SPLIT: {"way": "split"}}
                if MNIST in code:
                    tasks[MNIST] = {"code": str(code[MNIST].absolute())}
                for name, task in tasks.items():
                    workers[name] = Worker({**common, "seed": seed, **task}, MODULE)
                    stack.callback(workers[name].close)
                if MNIST in workers:
                    told = [f"{MNIST}'s options: {workers[MNIST].start['options']}"]
                runs.append(take_turns(workers, max(workers[OURS].start["images"] // options.points, 1)))
    values = options.fd or [multiple * best["distance"] for multiple in MULTIPLES]
    settings = scaled(params.student.method(options.method), options.budget)
    print(f"{machine_name()}, one thread; {params.data.resolution} pixels, network of width {params.network.width};")
    print(f"{options.method}: {settings.images:,} images in batches of {settings.batch};")
    print(
        f"FD of {options.samples:,} samples in {options.sampled} steps of the average of sigma_rel {options.average:g};"
    )
    print(f"the teacher's in {best['evaluations']} evaluations: {best['distance']:.3f}\n")
    head = ["FD below", "scm, CPU s", "its images"]
    for name in runs[0]:
        head += [] if name == OURS else [f"{name}, CPU s", "beside ours"]
    print(markdown_table(head, rows(runs, values), "r" * len(head)), end="\n\n")
    print(markdown_table(("seed", "training", "images", "CPU s", "FD"), curve(runs, options.seeds), "rlrrr"))
    told += [f"{name} has no recipe for such images: its loss is compared without --to-fd." for name in further]
    print("".join(f"\n{line}" for line in told))


def main() -> None:
    """The process's side."""
    end_with_parent()
    channel = Channel()
    task = json.loads(sys.stdin.readline())
    try:
        training = Training(task, channel)
        if task.get("kind") == "teacher":
            training.teacher_alone()
        elif "code" in task:
            training.mnist(Path(task["code"]))
        else:
            training.ours(task["way"])
    except Exception as error:
        channel.answer({"error": reason(error)})


if __name__ == "__main__":
    main()
