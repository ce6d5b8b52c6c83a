"""Post-hoc EMA: reconstructs averages of several lengths, measures each on the same seeds and keeps the best."""

import csv
import math
from typing import Any

import torch

from scm import build, weights
from scm.data.codec import Codec
from scm.ema.reconstruct import averages
from scm.errors import UserError
from scm.evaluation.generate import Sampler, asked_labels, generate
from scm.evaluation.reference import load
from scm.files import replacing
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    params, model_name, device = stage.params, str(stage.item), build.device_of(stage.params.runtime)
    reference, count = load(stage.root / "data/reference", device), params.select.samples
    labels = asked_labels(reference.labels, count)
    rows: list[dict[str, float]] = []
    best: tuple[dict[str, torch.Tensor], dict[str, Any]] = ({}, {})
    lengths = params.select.sigma_rel
    sigma_rels = lengths.teacher if model_name == "teacher" else lengths.student
    for state, header in averages(stage.root / f"models/{model_name}/snapshots", sigma_rels):
        model, codec = build.model_of(state, header, device), Codec(header["codec"])

        def distance(sampler: Sampler, model: Any = model, codec: Codec = codec) -> float:
            shape = codec.header["shape"]
            samples, _ = generate(model, sampler, range(count), labels, shape, params.evaluate.batch, device)
            return reference.distance(codec.decode(samples))

        for figures in candidates(stage, header["sigma_d"], distance):
            if figures["fd"] < min((row["fd"] for row in rows), default=math.inf):
                best = state, {**header, **{key: figures[key] for key in ("t_mid",) if key in figures}}
            known = {} if header["sigma_rel"] is None else {"sigma_rel": header["sigma_rel"]}  # None: imported
            rows.append({**known, **figures})
            stage.progress("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
    state, header = best
    if not state:
        raise UserError(f"{model_name}: no average has a finite Frechet distance; see the curves of its training")
    header["sigma_max"] = params.sampler.sigma_max
    weights.save(stage.root / f"models/{model_name}/model.safetensors", state, header)
    with replacing(stage.root / f"results/curves/select-{model_name}.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(["sigma_rel", *rows[0]])))
        writer.writeheader()
        writer.writerows(rows)
    stage.metrics(f"select-{model_name}", min(rows, key=lambda row: row["fd"]))


def candidates(stage: Stage, sigma_d: float, distance: Any) -> list[dict[str, float]]:
    """Figures of one average: the teacher's with its full sampler; a student's in one step, in two with each t_mid."""
    params = stage.params
    if stage.item == "teacher":
        return [{"fd": distance(build.full_sampler(params, sigma_d))}]
    sigma_max = params.sampler.sigma_max
    one_step = distance(build.student_sampler(sigma_max, sigma_d, None))
    two_steps = {t_mid: distance(build.student_sampler(sigma_max, sigma_d, t_mid)) for t_mid in params.select.t_mid}
    return [{"t_mid": t_mid, "fd": fd, "fd_1step": one_step} for t_mid, fd in two_steps.items()]


if __name__ == "__main__":
    main(run, "select_ema", matrix=True)
