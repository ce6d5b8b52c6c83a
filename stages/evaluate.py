"""Frechet distance, agreement with the asked class, speed and sample grids of one model."""

import hashlib
import json

import torch

from scm import build
from scm.data.codec import Codec
from scm.evaluation.generate import Sampler, asked_labels, generate
from scm.evaluation.grids import save_grid, scale_for
from scm.evaluation.reference import load
from scm.files import replacing_folder
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    params, settings, model_name = stage.params, stage.params.evaluate, str(stage.item)
    device = build.device_of(params.runtime)
    reference = load(stage.root / "data/reference", device)
    model, header = build.load_model(stage.root / f"models/{model_name}/model.safetensors", device)
    codec, sigma_d = Codec(header["codec"]), header["sigma_d"]
    shape, count = codec.header["shape"], settings.samples
    labels = asked_labels(reference.labels, count)
    seeds = range(settings.seed, settings.seed + count)
    columns = min(settings.grid_classes, len(header["classes"])) or settings.grid_classes
    grid_labels = torch.arange(columns).repeat(settings.grid_rows) if header["classes"] else None
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    figures: dict[str, float] = {"mparams": parameters}
    figures |= {key: header[key] for key in ("sigma_rel", "t_mid") if header.get(key) is not None}
    with replacing_folder(stage.root / f"results/samples/{model_name}") as folder:
        for sampler in samplers(stage, sigma_d, header.get("t_mid")):
            images, seconds = generate(model, sampler, seeds, labels, shape, settings.batch, device)
            images, nfe = codec.decode(images), sampler.nfe
            figures[f"fd@{nfe}"] = reference.distance(images)
            agreement = reference.agreement(images, labels)
            if agreement is not None:
                figures[f"accuracy@{nfe}"] = agreement
            figures[f"images_per_second@{nfe}"] = count / seconds
            number = columns * settings.grid_rows
            asked = torch.full((number,), -1) if grid_labels is None else grid_labels
            shown, _ = generate(model, sampler, range(number), asked, shape, settings.batch, device)
            save_grid(folder / f"nfe-{nfe}.png", codec.decode(shown), columns, scale_for(shape[1]))
            stage.progress(f"{nfe} network evaluations: Frechet distance {figures[f'fd@{nfe}']:.3f}")
    protocol = [reference.protocol, settings.samples, settings.seed, params.sampler.model_dump()]
    stage.extra |= {"device": device, "protocol": hashlib.sha256(json.dumps(protocol).encode()).hexdigest()}
    stage.metrics(f"evaluate-{model_name}", figures)


def samplers(stage: Stage, sigma_d: float, t_mid: float | None) -> list[Sampler]:
    """The teacher's samplers, or a student's in one step and two."""
    if stage.item == "teacher":
        return build.teacher_samplers(stage.params, sigma_d)
    sigma_max = stage.params.sampler.sigma_max
    return [build.student_sampler(sigma_max, sigma_d, None), build.student_sampler(sigma_max, sigma_d, t_mid)]


if __name__ == "__main__":
    main(run, "evaluate", matrix=True)
