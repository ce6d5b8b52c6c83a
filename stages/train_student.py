"""Continuous-time consistency model, started from the teacher's selected average: sCD or sCT (alg. 1)."""

from scm.build import TrainingData, compiled, device_of, load_model, new_student, student_objective, training_settings
from scm.errors import UserError
from scm.files import sha256
from scm.stage import Stage, main
from scm.training.distributed import Ranks
from scm.training.loop import METRICS, Trainer
from scm.training.results import export


def run(stage: Stage) -> None:
    params, method = stage.params, str(stage.item)
    settings = params.student.method(method)
    ranks = Ranks.join(device_of(params.runtime))
    data = TrainingData(stage.root / "data/latents", params.seed, settings.batch, ranks)
    path = stage.root / "models/teacher/model.safetensors"
    teacher, inherited = load_model(path, ranks.device)
    if inherited["codec"] != data.codec.header:
        raise UserError(f"{path} was trained on another encoding than data/latents: run `dvc repro train_teacher`")
    if len(inherited["classes"]) != len(data.loader.classes):
        raise UserError(
            f"{path} knows {len(inherited['classes'])} classes, data/latents has {len(data.loader.classes)}: "
            "train a teacher on these data, or prepare those that it was trained on"
        )
    student = compiled(new_student(teacher, settings, params.seed).to(ranks.device), params.runtime, ranks.device)
    compiled(teacher.requires_grad_(False), params.runtime, ranks.device)
    header = {key: inherited[key] for key in ("classes", "codec", "sigma_d")}
    header |= {"model": method, "network": student.settings.to_dict(), "parent": sha256(path)}
    stage.extra["device"] = str(ranks.device)
    trainer = Trainer(
        student,
        student_objective(method, settings, inherited["sigma_d"], teacher),
        data,
        training_settings(params, settings, f"student {method}", header),
        stage.work,
        ranks,
        stage.stopping,
        stage.progress,
    )
    with stage.shown_live(stage.work / METRICS):
        trainer.run()
    curve = stage.root / f"results/curves/train-{method}.csv"
    export(stage.work, stage.root / f"models/{method}/snapshots", curve, ranks)


if __name__ == "__main__":
    main(run, "train_student", matrix=True, training=True)
