"""Evaluates one model: Frechet and kernel distance, precision, recall, agreement with the class, speed, grids."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm.base.distributed import Ranks
from scm.base.files import replacing_folder
from scm.base.project import TEACHER
from scm.build import models, sampling
from scm.data.latents.autoencoders import load_codec
from scm.evaluation.figures import figures_of, kept_features, sampled_features
from scm.evaluation.held_out import Pair, pictures_of
from scm.evaluation.reference import Reference, load_reference
from scm.generation import trained
from scm.generation.generate import asked_labels, batches, generate
from scm.generation.grids import save_grid, scale_for
from scm.generation.sampler import Sampler
from scm.networks.model import GUIDE
from scm.params.notes import notes
from scm.pipeline.stage import Stage, main

Nearest = tuple[Tensor, dict[str, Any]]
"""Pictures of the nearest pairs, and what the run file says about them."""


def run(stage: Stage) -> None:
    params, settings, model_name = stage.params, stage.params.evaluate, str(stage.item)
    device = models.device_of(params.runtime)
    ranks = Ranks.join(device)
    reference = load_reference(stage.root / "data/reference", ranks.device)
    model, header = trained.load_selected(stage.root / f"models/{model_name}", ranks.device)
    codec = load_codec(stage.root / "data/codec", ranks.device)
    codec.check(header["codec"], f"models/{model_name}")
    shape, count = codec.header["shape"], settings.samples
    labels = asked_labels(reference.labels, count)
    # Each repeat has its own range of seeds.
    starts = [settings.seed + repeat * count for repeat in range(settings.repeats)]
    ranges = [range(start, start + count) for start in starts]
    columns = min(settings.grid_classes, len(header["classes"])) or settings.grid_classes
    grid_labels = torch.arange(columns).repeat(settings.grid_rows) if header["classes"] else None
    own = [value for name, value in model.named_parameters() if not name.startswith(GUIDE)]
    figures: dict[str, float] = {"mparams": sum(p.numel() for p in own) / 1e6}
    figures |= {"sigma_rel": header["sigma_rel"]} if header.get("sigma_rel") is not None else {}
    grids: dict[int, Tensor] = {}
    nearest: dict[int, Nearest] = {}

    def drawn(sampler: Sampler, scale: float, seeds: range) -> Iterator[tuple[slice, Tensor, float]]:
        place = settings.batch, ranks.device, scale, ranks.rank, ranks.world
        return batches(model, sampler, seeds, labels, shape, *place)

    samplers = sampling.measured_samplers(params, header)
    # The first batch is slow, and images_per_second leaves it out.
    warm_up = cache(lambda: next(drawn(samplers[0][0], samplers[0][1]["guidance_scale"], ranges[0]), None))

    def features_of(sampler: Sampler, scale: float, seeds: range) -> tuple[Tensor, float]:
        def measure() -> tuple[Tensor, float]:
            warm_up()
            return sampled_features(drawn(sampler, scale, seeds), count, codec.decode, reference, ranks)

        file = stage.work / f"features-{sampler.nfe}-{seeds.start}.safetensors"
        return kept_features(file, measure, ranks)

    for sampler, choice in samplers:
        scale, nfe = choice["guidance_scale"], sampler.nfe
        sets = map(partial(features_of, sampler, scale), ranges)
        if ranks.rank:  # only rank 0 measures; the others just draw their part of the samples
            for _ in sets:
                pass
            continue
        measured, best, pairs = figures_of(sets, labels, reference, settings.neighbours)
        figures |= {f"{name}@{nfe}": value for name, value in measured.items()}
        figures |= {f"guidance@{nfe}": scale} if sampling.is_guided(header, scale) else {}
        figures |= {f"t_mid@{nfe}": choice["t_mid"]} if "t_mid" in choice else {}

        def shown(seeds: Sequence[int], asked: Tensor, sampler: Sampler = sampler, scale: float = scale) -> Tensor:
            samples, _ = generate(model, sampler, seeds, asked, shape, settings.batch, ranks.device, scale)
            return codec.decode(samples)

        number = columns * settings.grid_rows
        grids[nfe] = shown(range(number), torch.full((number,), -1) if grid_labels is None else grid_labels)
        nearest |= {nfe: nearest_pairs(reference, pairs, ranges[best], labels, shown)} if pairs else {}
        stage.progress(f"{nfe} network evaluations: Frechet distance {figures[f'fd@{nfe}']:.3f}")
    ranks.wait()
    ranks.leave()
    if ranks.rank:
        return
    for note in notes(params, len(header["classes"]), reference.extractor.num_features):
        stage.progress(note)
    figures |= reference.floors(count, settings.neighbours, ranks.device)
    save_pictures(stage.root / f"results/samples/{model_name}", grids, columns, nearest)
    stage.extra |= {"device": device, "protocol": protocol_of(stage, reference, model_name)}
    stage.extra |= {"nearest": {str(nfe): told for nfe, (_, told) in nearest.items()}} if nearest else {}
    stage.figures(figures)


def save_pictures(path: Path, grids: Mapping[int, Tensor], columns: int, nearest: Mapping[int, Nearest]) -> None:
    """Writes the pictures for each number of evaluations; DVC shows all files of the folder as images."""
    with replacing_folder(path) as folder:
        for nfe, images in grids.items():
            save_grid(folder / f"nfe-{nfe}.png", images, columns, scale_for(images.shape[-1]))
        for nfe, (images, _) in nearest.items():
            save_grid(folder / f"nearest-{nfe}.png", images, len(images) // 2, scale_for(images.shape[-1]))


def nearest_pairs(
    reference: Reference, pairs: Sequence[Pair], seeds: range, labels: Tensor, shown: Callable[..., Tensor]
) -> Nearest:
    """The samples that are nearest to a training image, and what the run file says about them.

    Args:
        seeds: of the samples, which have these labels.
        shown: draws the images of some seeds and labels again.

    Returns:
        uint8 [2 P, C, H, W]: the samples, then the nearest training image of each.
    """
    assert reference.held_out is not None
    drawn = shown([seeds[pair.sample] for pair in pairs], labels[[pair.sample for pair in pairs]])
    images = reference.held_out.pictures[[pair.training for pair in pairs]]
    told = [{"seed": seeds[pair.sample], "distance": pair.distance} for pair in pairs]
    return torch.cat([pictures_of(drawn).cpu(), images]), {"threshold": reference.held_out.threshold, "pairs": told}


def protocol_of(stage: Stage, reference: Reference, model: str) -> str:
    """Hash of everything that a figure depends on, except the model."""
    settings, sampler = stage.params.evaluate, stage.params.sampler.model_dump()
    protocol = [reference.protocol, settings.samples, settings.seed, settings.neighbours, sampler, settings.repeats]
    if model == TEACHER:
        protocol += [settings.teacher_few_steps, settings.teacher_few_spacing]
    return hashlib.sha256(json.dumps(protocol).encode()).hexdigest()


if __name__ == "__main__":
    main(run, "evaluate", matrix=True, parallel=True)
