"""A student by one method (sec. 4, alg. 1 and its variants), started from a model's selected average."""

from scm.base.distributed import Ranks
from scm.build.models import compiled, device_of, new_student, student_header
from scm.build.training import TrainingData, fitting_teacher, student_objective, student_probe, training_settings
from scm.generation.trained import load_model
from scm.pipeline.stage import Stage, main
from scm.training.export import export
from scm.training.loop import METRICS, Trainer


def run(stage: Stage) -> None:
    params, method = stage.params, str(stage.item)
    settings = params.student.method(method)
    ranks = Ranks.join(device_of(params.runtime))
    data = TrainingData(stage.root / "data/latents", params.seed, settings.batch, ranks)
    teacher, inherited = fitting_teacher(stage.root / "models/teacher/model.safetensors", data, settings)
    name = params.student.methods[method]
    start = stage.root / f"models/{name}/model.safetensors"
    model = load_model(start)[0]
    student = new_student(model, settings, params.seed, keep_weight=name != "teacher").to(ranks.device)
    objective, auxiliary = student_objective(method, settings, params.sampler, teacher, params.seed)
    for module in (student, teacher, *([auxiliary.module] if auxiliary else [])):
        compiled(module.to(ranks.device), params.runtime, ranks.device)
    header = student_header(method, settings, params.sampler, student, inherited, start)
    stage.extra["device"] = str(ranks.device)
    trainer = Trainer(
        student,
        objective,
        data,
        training_settings(params, settings, f"student {method}", header),
        stage.work,
        ranks,
        stage.stopping,
        stage.progress,
        auxiliary,
        student_probe(params, settings, student, data),
    )
    with stage.shown_live(stage.work / METRICS):
        trainer.run()
    stage.extra["health"] = [str(finding) for finding in trainer.diagnosis.findings]
    curve = stage.root / f"results/curves/train-{method}.csv"
    export(stage.work, stage.root / f"models/{method}/snapshots", curve, ranks)


if __name__ == "__main__":
    main(run, "train_student", matrix=True, training=True)
