"""How good edits are by the number and spacing of their times: `python -m benchmarks.editing [MODEL]`.

Run in a project with a trained student and held-out images. Each of these is edited twice, with its own class. FD
is the Frechet distance between the results and the training images, and accuracy the share of results that the
reference's classifier takes for that class. The last table is about strokes, which are the images made coarse.
"""

import sys
from typing import Any

import torch

from scm import trigflow
from scm.data.latents.autoencoders import load_codec
from scm.data.shards.shards import held_out_of, read_images
from scm.errors import UserError
from scm.evaluation.reference import load_reference
from scm.generation import trained
from scm.generation.editing import TIMES, require_editor
from scm.generation.generate import generate
from scm.generation.sampler import Sampler
from scm.params.project import Project
from scm.samplers import editing, edm_sigmas

COUNTS, STARTS, SEEDS, FACTOR = (1, 2, 4, 6, 10, 16), (0.8, 1.0, 1.2, 1.4), 2, 2


class Editor:
    """The held-out images of a project, and a student that edits them."""

    def __init__(self, project: Project, name: str) -> None:
        root = project.root
        self.model, self.header = trained.load_selected(root / "models" / name)
        require_editor(self.header, name)
        self.codec, self.reference = load_codec(root / "data/codec"), load_reference(root / "data/reference")
        aside = held_out_of(root / "data/shards")
        if aside is None or self.codec.header["autoencoder"] is not None:
            raise UserError("this measures edits of held-out pixels: set data.held_out, and codec.name: identity")
        images, labels = read_images(aside)
        self.images, self.labels = images.repeat(SEEDS, 1, 1, 1), labels.repeat(SEEDS)
        self.given, self.sigma_d = self.codec.serve(self.images), self.codec.header["sigma_d"]
        self.levels = project.params.sampler.noise_levels

    def even(self, count: int) -> list[float]:
        return editing.even_times(self.header["t_max"], count)

    def edm(self, count: int) -> list[float]:
        """EDM's noise levels, as the consistency models paper spaces its times."""
        return [trigflow.time_of_sigma(sigma, self.sigma_d) for sigma in edm_sigmas(count, *self.levels)[:-1]]

    def edited(self, start: torch.Tensor, keep: editing.Keep, times: list[float]) -> dict[str, Any]:
        """Figures of the held-out images after an edit."""
        sampler = Sampler(len(times), lambda f, noise: editing.edit(f, noise, start, keep, times, self.sigma_d))
        scale, count = trained.scale_of(self.header, len(times), None), len(self.images)
        shape = self.codec.header["shape"]
        samples, _ = generate(self.model, sampler, range(count), self.labels, shape, count, "cpu", scale)
        return self.figures(self.codec.decode(samples))

    def figures(self, images: torch.Tensor) -> dict[str, Any]:
        features = self.reference.features_of(images)
        classes = self.reference.extractor.classes_of(features)
        right = None if classes is None else (classes.cpu() == self.labels).float().mean().item()
        coarse = (torch.nn.functional.avg_pool2d(each.float(), FACTOR) for each in (images, self.images))
        away = torch.sub(*coarse).abs().mean().item()
        return {"fd": self.reference.distance_of(features), "accuracy": right, "away": away}


def main() -> None:
    project = Project.open()
    editor = Editor(project, sys.argv[1] if len(sys.argv) > 1 else project.params.publish.model)
    missing = torch.zeros(1, 1, *editor.images.shape[2:], dtype=torch.bool)
    missing[..., missing.shape[2] // 2 :, :] = True
    tasks = {
        "lower half filled": editing.pixels(editor.given, missing),
        "enlarged twice": editing.patch_means(editor.given, FACTOR),
    }
    print(f"held-out images as they are: FD {editor.figures(editor.images)['fd']:.2f}\n")
    print("| edit | times | FD, even | accuracy | FD, EDM's | accuracy |\n|---|---|---|---|---|---|")
    for name, keep in tasks.items():
        for count in COUNTS:
            start = keep(torch.zeros_like(editor.given))
            found = [editor.edited(start, keep, times(count)) for times in (editor.even, editor.edm)]
            print(f"| {name} | {count} | {' | '.join(map(told, found))} |", flush=True)
    print("\n| strokes from t | FD | accuracy | grey levels from the strokes |\n|---|---|---|---|")
    strokes = editing.patch_means(editor.given, FACTOR)(torch.zeros_like(editor.given))
    for start in STARTS:
        found = editor.edited(strokes, editing.nothing(), editing.even_times(start, TIMES))
        print(f"| {start} | {told(found)} | {found['away']:.0f} |", flush=True)


def told(figures: dict[str, Any]) -> str:
    accuracy = "" if figures["accuracy"] is None else f"{figures['accuracy']:.1%}"
    return f"{figures['fd']:.2f} | {accuracy}"


if __name__ == "__main__":
    main()
