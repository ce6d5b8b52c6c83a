"""Trains the teacher, a TrigFlow diffusion model (sec. 3)."""

from scm.base.distributed import Ranks
from scm.base.project import TEACHER
from scm.build.given import start_teacher
from scm.build.models import compile_networks, device_of, network_settings, new_model, with_precision
from scm.build.training import TrainingData, training_settings
from scm.objectives.diffusion import Diffusion
from scm.pipeline.stage import Stage, main
from scm.training.export import export
from scm.training.loop import Trainer
from scm.training.record import METRICS
from scm.training.stability import Stability


def run(stage: Stage) -> None:
    params = stage.params
    ranks = Ranks.join(device_of(params.runtime))
    settings = with_precision(params.teacher, ranks, stage.progress)
    place, flip = stage.root / "data/latents", params.data.flip
    data = TrainingData(place, params.seed, settings.batch, ranks, stage.progress, flip=flip)
    shape, classes = data.codec.header["shape"], data.loader.classes
    network = network_settings(params.network, len(classes), shape, settings.augment)
    model = new_model(network, settings, params.seed)
    start = start_teacher(stage.root, params, model, data.codec.header, classes, stage.progress)
    model.to(ranks.device)
    compile_networks(model, params.runtime, ranks.device, stage.progress)
    times = network.sigma_d, settings.p_mean, settings.p_std
    objective = Diffusion(*times, settings.label_dropout, settings.augment)
    header = {"model": TEACHER, "network": network.to_dict(), "classes": classes, "codec": data.codec.header}
    header |= {"sigma_d": params.network.sigma_d, "label_dropout": settings.label_dropout, **start}
    stage.extra |= {"given": start} if start else {}
    stage.extra |= {"device": str(ranks.device), "precision": settings.precision}
    stage.progress(f"{sum(p.numel() for p in model.parameters()):,} parameters on {ranks.device}")
    loop = training_settings(params, settings, TEACHER, header)
    trainer = Trainer(
        model,
        objective,
        data,
        loop,
        stage.work,
        ranks,
        stage.stopping,
        stage.progress,
        probe=Stability(data, params.seed, network.sigma_d),
        micro_batch=params.runtime.images_at_once,
        checkpointing=params.runtime.checkpointing,
        divided=params.runtime.divides_state(ranks.device.type),
        watch=stage.watch,
    )
    with stage.shown_live(stage.work / METRICS):
        trainer.run()
    stage.extra["health"] = [str(finding) for finding in trainer.diagnosis.findings]
    export(trainer.record, stage.root, TEACHER, ranks)


if __name__ == "__main__":
    main(run, "train_teacher", training=True)
