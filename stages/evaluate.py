"""Frechet distance, precision, recall, agreement with the asked class, speed and sample grids of one model."""

import hashlib
import json

import torch

from scm import build
from scm.data.autoencoders import load_codec
from scm.evaluation.generate import asked_labels, generate
from scm.evaluation.grids import save_grid, scale_for
from scm.evaluation.reference import load
from scm.files import replacing_folder
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    params, settings, model_name = stage.params, stage.params.evaluate, str(stage.item)
    device = build.device_of(params.runtime)
    reference = load(stage.root / "data/reference", device)
    model, header = build.load_model(stage.root / f"models/{model_name}/model.safetensors", device)
    codec, scale = load_codec(stage.root / "data/codec", device), build.guidance_of(params, header)
    codec.check(header["codec"], f"models/{model_name}")
    shape, count = codec.header["shape"], settings.samples
    labels = asked_labels(reference.labels, count)
    seeds = range(settings.seed, settings.seed + count)
    columns = min(settings.grid_classes, len(header["classes"])) or settings.grid_classes
    grid_labels = torch.arange(columns).repeat(settings.grid_rows) if header["classes"] else None
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    figures: dict[str, float] = {"mparams": parameters}
    figures |= {key: header[key] for key in ("sigma_rel", "t_mid") if header.get(key) is not None}
    figures |= {"guidance": scale} if build.is_guided(params, header) else {}
    with replacing_folder(stage.root / f"results/samples/{model_name}") as folder:
        for sampler in build.samplers(params, header, header.get("t_mid")):
            images, seconds = generate(model, sampler, seeds, labels, shape, settings.batch, device, scale)
            images, nfe = codec.decode(images), sampler.nfe
            measured = reference.measure(images, labels, settings.neighbours)
            figures |= {f"{name}@{nfe}": value for name, value in measured.items()}
            figures[f"images_per_second@{nfe}"] = count / seconds
            number = columns * settings.grid_rows
            asked = torch.full((number,), -1) if grid_labels is None else grid_labels
            shown, _ = generate(model, sampler, range(number), asked, shape, settings.batch, device, scale)
            shown = codec.decode(shown)
            save_grid(folder / f"nfe-{nfe}.png", shown, columns, scale_for(shown.shape[-1]))
            stage.progress(f"{nfe} network evaluations: Frechet distance {figures[f'fd@{nfe}']:.3f}")
    protocol = [reference.protocol, settings.samples, settings.seed, settings.neighbours, params.sampler.model_dump()]
    stage.extra |= {"device": device, "protocol": hashlib.sha256(json.dumps(protocol).encode()).hexdigest()}
    stage.metrics(f"evaluate-{model_name}", figures)


if __name__ == "__main__":
    main(run, "evaluate", matrix=True)
