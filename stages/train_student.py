"""Trains a student by one method (sec. 4, alg. 1 and its variants), from a model's selected average."""

from torch import nn

from scm.base.distributed import Ranks
from scm.base.project import TEACHER
from scm.build.models import compile_networks, device_of, new_student, student_header, with_precision
from scm.build.training import TrainingData, fitting_teacher, student_objective, student_probe, training_settings
from scm.generation.trained import load_model
from scm.jvp import recomputed
from scm.networks.magnitude import fix_weights
from scm.pipeline.stage import Stage, main
from scm.training.export import export
from scm.training.loop import Trainer
from scm.training.record import METRICS


def run(stage: Stage) -> None:
    params, method = stage.params, str(stage.item)
    ranks = Ranks.join(device_of(params.runtime))
    settings = with_precision(params.student.method(method), ranks, stage.progress)
    place, flip = stage.root / "data/latents", params.data.flip
    data = TrainingData(place, params.seed, settings.batch, ranks, stage.progress, flip=flip)
    teacher, inherited = fitting_teacher(stage.root / "models/teacher/model.safetensors", data, settings)
    # The student begins as the teacher or as another student, whose w_phi it keeps.
    start = params.student.methods[method]
    file = stage.root / f"models/{start}/model.safetensors"
    student = new_student(load_model(file)[0], settings, params.seed, keep_weight=start != TEACHER).to(ranks.device)
    objective, auxiliary = student_objective(method, settings, params.sampler, teacher, params.seed)
    fix_weights(teacher)  # now that the fake score has copied them
    modules = nn.ModuleList([student, teacher, *([auxiliary.module] if auxiliary else [])]).to(ranks.device)
    compile_networks(modules, params.runtime, ranks.device, stage.progress)
    header = student_header(method, settings, params.sampler, student, inherited, file)
    stage.extra |= {"device": str(ranks.device), "precision": settings.precision}
    loop = training_settings(params, settings, f"student {method}", header)
    place = stage.work, ranks, stage.stopping, stage.progress
    probe = student_probe(params, settings, student, data)
    runtime = params.runtime
    how = runtime.images_at_once, runtime.checkpointing, recomputed, runtime.divides_state(ranks.device.type)
    trainer = Trainer(student, objective, data, loop, *place, auxiliary, probe, *how, stage.watch)
    with stage.shown_live(stage.work / METRICS):
        trainer.run()
    stage.extra["health"] = [str(finding) for finding in trainer.diagnosis.findings]
    export(trainer.record, stage.root, method, ranks)


if __name__ == "__main__":
    main(run, "train_student", matrix=True, training=True)
