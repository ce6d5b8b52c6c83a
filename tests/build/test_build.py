"""The factory: students begin as their teachers; objectives and samplers are what params.yaml says."""

import dataclasses
import math
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config

from scm.base import precision, weights
from scm.base.distributed import Ranks
from scm.base.files import sha256, write_json
from scm.base.randomness import seed_of
from scm.build import models as build
from scm.build import sampling, training
from scm.build.room import most_parameters, shortage_of
from scm.data.latents.codec import plain_header
from scm.data.shards.shards import write_latents
from scm.errors import UserError
from scm.generation import trained
from scm.generation.sampler import Sampler
from scm.methods import StudentSettings
from scm.networks import Model
from scm.networks.architectures import names
from scm.objectives.ayf import FlowMapDistillation
from scm.objectives.discrete import DiscreteDistillation
from scm.objectives.distillation import Distillation
from scm.objectives.dmd import DistributionMatching
from scm.objectives.ect import EasyConsistencyTuning
from scm.objectives.facm import FlowAnchoredDistillation
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.meanflow import MeanFlow
from scm.objectives.multistep import MultistepDistillation
from scm.objectives.rcm import ScoreRegularizedConsistency
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.scd_gan import BlockFeatures, ConsistencyAndAdversary
from scm.objectives.scd_vsd import ConsistencyAndScoreDistillation
from scm.objectives.sct import ConsistencyTraining
from scm.objectives.vsd import VariationalScoreDistillation
from scm.params import Params
from scm.params.schema import Runtime
from scm.samplers import SampleNoise
from scm.training import room
from scm.training.settings import make_optimizer
from scm.trigflow import time_of_sigma
from tests.support.models import FAMILIES, tiny_model
from tests.support.projects import OWN_VALUES, params_of_all, params_with

ROOT = Path(__file__).parents[2]
METHOD = {
    "batch": 8, "precision": "fp32", "p_mean": -1.0, "p_std": 1.4,
    "optimizer": {"name": "adam", "betas": (0.9, 0.99), "eps": 1e-8},
    "lr": {"max": 1e-3, "warmup": 0, "decay": "constant", "decay_from": 0}, "dropout_max_resolution": 16,
    "label_dropout": 0.0, "tangent": "normalized", "tangent_norm_c": 0.1,
    "adaptive_weighting": True, "tangent_warmup": 0, "images": 8, "dropout": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"guidance": (1.0, 2.0)}, {"guidance": (1.0, 2.0), "segments": 2}])
def test_a_student_begins_as_its_teacher_whatever_its_method_adds(family, changes):
    teacher = tiny_model(**FAMILIES[family]).eval()
    student = build.new_student(teacher, StudentSettings(**METHOD, **changes), seed=0).eval()
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2]), torch.tensor([1, -1])
    given = {"guidance": torch.tensor([1.0, 1.7])} if changes else {}
    given |= {"segment": torch.tensor([0.0, 0.7])} if "segments" in changes else {}
    assert torch.equal(student(x, t, labels, **given), teacher(x, t, labels))
    assert not student.log_weight(t).any() and teacher.log_weight(t).all()
    assert student.settings.guidance == bool(changes) and student.settings.c_noise == teacher.settings.c_noise


@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow"])
def test_a_student_of_an_augmented_teacher_is_the_teacher_of_images_that_are_not(family):
    teacher = tiny_model(**FAMILIES[family], augment=True).eval()
    torch.nn.init.normal_(next(p for name, p in teacher.named_parameters() if "_augment." in name))
    student = build.new_student(teacher, StudentSettings(**METHOD), seed=0).eval()
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2]), torch.tensor([1, -1])
    assert torch.equal(student(x, t, labels), teacher(x, t, labels, augment=torch.zeros(2, 9)))
    assert not student.settings.augment and not [name for name in student.state_dict() if "_augment." in name]


def test_a_students_new_weights_follow_from_the_seed():
    teacher = tiny_model()
    one, same, other = (build.new_student(teacher, StudentSettings(**METHOD), seed) for seed in (0, 0, 1))
    assert torch.equal(one.log_weight_head.features.freqs, same.log_weight_head.features.freqs)
    assert not torch.equal(one.log_weight_head.features.freqs, other.log_weight_head.features.freqs)


@pytest.mark.parametrize("keep", [True, False])
def test_of_another_students_start_the_weight_is_kept_if_asked(keep):
    start = build.new_student(tiny_model(), StudentSettings(**METHOD), seed=3)
    with torch.no_grad():
        start.log_weight_head.linear.weight.normal_()
    student = build.new_student(start, StudentSettings(**METHOD), seed=4, keep_weight=keep)
    t = torch.tensor([0.2, 1.1])
    assert torch.equal(student.log_weight(t), start.log_weight(t)) == keep and student.log_weight(t).any() == keep
    for name, value in start.network.state_dict().items():
        assert torch.equal(student.network.state_dict()[name], value), name


def test_a_guided_student_takes_its_guidance_from_the_one_that_it_starts_from():
    """What a start has learnt of its further inputs goes along: the follower answers as its start does."""
    settings = StudentSettings(**METHOD, guidance=(1.0, 2.0))
    start = build.new_student(tiny_model(), settings, seed=3).eval()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    student = build.new_student(start, settings, seed=4).eval()
    x, t, labels, scale = (
        torch.randn(2, 1, 8, 8),
        torch.tensor([0.3, 1.2]),
        torch.tensor([1, 2]),
        torch.tensor([1.0, 2.0]),
    )
    assert torch.equal(student(x, t, labels, guidance=scale), start(x, t, labels, guidance=scale))
    assert not torch.equal(student(x, t, labels, guidance=scale), student(x, t, labels, guidance=scale.flip(0)))


def test_a_students_header_says_what_its_sampling_depends_on(tmp_path):
    teacher, start = tiny_model(), tmp_path / "model.safetensors"
    start.write_bytes(b"weights")
    inherited = {"classes": ["a"], "codec": {"name": "identity"}, "sigma_d": 0.5, "label_dropout": 0.1, "images": 7}
    settings = StudentSettings(**METHOD)
    student = build.new_student(teacher, settings, 0)
    sampler = params_with({}).sampler
    header = build.student_header("scd", settings, sampler, student, inherited, start)
    assert header == {
        "classes": ["a"], "codec": {"name": "identity"}, "sigma_d": 0.5, "model": "scd",
        "network": student.settings.to_dict(), "parent": sha256(start), "t_max": math.atan(80.0 / 0.5),
    }  # fmt: skip
    settings = StudentSettings(**METHOD, segments=3, guidance=(1.0, 2.0))
    student = build.new_student(teacher, settings, 0)
    header = build.student_header("multistep", settings, sampler, student, inherited, start)
    assert (header["segments"], header["guidance"], header["network"]["guidance"]) == (3, (1.0, 2.0), True)
    for method, any_steps in (("ayf", True), ("meanflow", True), ("facm", None)):
        settings = params_of_all().student.method(method)
        student = build.new_student(teacher, settings, 0)
        header = build.student_header(method, settings, sampler, student, inherited, start)
        assert student.settings.segments and "segments" not in header and header.get("any_steps") == any_steps


SHARDS = ("auto", "none", "optimizer")


def runtime(**changes: object) -> Runtime:
    values = {"device": "cpu", "threads": None, "processes": 1, "compile": True}
    values |= {
        "log_every": 1,
        "checkpoint_every": 1,
        "micro_batch": "auto",
        "checkpointing": "auto",
        "shard": "auto",
        "launcher": None,
        "checkpoint_minutes": None,
    }
    return Runtime(**{**values, **changes})  # type: ignore[arg-type]


def test_the_state_is_divided_on_gpus_or_if_asked():
    asked = {shard: [runtime(shard=shard).divides_state(device) for device in ("cpu", "cuda")] for shard in SHARDS}
    assert asked == {"auto": [False, True], "none": [False, False], "optimizer": [True, True]}


def test_a_network_is_compiled_if_asked_and_its_weights_keep_their_names(monkeypatch):
    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: calls.append(module))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    model = tiny_model()
    names = list(model.state_dict())
    said: list[str] = []
    before = torch.get_deterministic_debug_mode()
    monkeypatch.setattr(torch._inductor.config, "deterministic", False)
    torch.set_deterministic_debug_mode("warn")  # which does not tell the compiler
    try:
        for choice in (False, "auto"):
            build.compile_networks(model, runtime(compile=choice), torch.device("cpu"), said.append)
        assert not calls and not said and not torch._inductor.config.deterministic
        build.compile_networks(model, runtime(), torch.device("cpu"), said.append)
        assert torch._inductor.config.deterministic and torch.get_deterministic_debug_mode() == 1
    finally:
        torch.set_deterministic_debug_mode(before)
    assert calls == [model.network]
    assert list(model.state_dict()) == names


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^runtime.compile is true, but there is no C\+\+ compiler: install g\+\+"):
        build.compile_networks(tiny_model(), runtime(), torch.device("cpu"), print)


@pytest.mark.parametrize(("able", "expected"), [(True, 1), (False, 0)])
def test_compile_auto_compiles_on_a_gpu_that_can(monkeypatch, able, expected):
    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *options: calls.append(module))
    monkeypatch.setattr(build.shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(build, "find_spec", lambda name: able)
    said: list[str] = []
    build.compile_networks(tiny_model(), runtime(compile="auto"), torch.device("cuda"), said.append)
    assert len(calls) == expected and len(said) == 1
    assert ("auto: off" in said[0]) != able


class Two(Ranks):
    """Rank 1 beside a rank 0 that has chosen fp32."""

    def of_first(self, value: float) -> float:
        return 0.0


def test_precision_auto_is_the_machines_and_a_line_tells_it(monkeypatch):
    """A CPU without instructions for bfloat16 takes several times as long as in float32."""
    said: list[str] = []

    def chosen(asked: str, able: bool, ranks: type[Ranks] = Ranks) -> str:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able})
        settings = StudentSettings(**{**METHOD, "precision": asked})
        return build.with_precision(settings, ranks(0, 1, torch.device("cpu")), said.append).precision

    assert (chosen("auto", False), chosen("auto", True)) == ("fp32", "bf16")
    assert said == [
        "precision auto: fp32, as cpu has no bf16 instructions", "precision auto: bf16, as cpu has bf16 instructions",
    ]  # fmt: skip
    said.clear()
    assert (chosen("fp32", False), chosen("bf16", True), said) == ("fp32", "bf16", [])
    assert chosen("bf16", False) == "bf16"
    assert said == ["warning: cpu has no bf16 instructions and takes several times as long as in fp32: precision: auto"]
    with pytest.raises(UserError, match=r"^precision is auto, but not all machines have bf16 instructions"):
        chosen("auto", True, Two)


@pytest.mark.parametrize("able", [True, False])
def test_on_a_gpu_precision_auto_asks_for_the_gpus_own_instructions(monkeypatch, able):
    """torch would also count emulation, which every GPU has."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or able)
    assert precision.precision_on(torch.device("cuda"), "auto") == ("bf16" if able else "fp32")


def test_of_a_module_of_several_models_every_network_is_compiled(monkeypatch):
    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: calls.append(module))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    models = torch.nn.ModuleList([tiny_model(), torch.nn.Linear(1, 1), tiny_model()])
    build.compile_networks(models, runtime(), torch.device("cpu"), print)
    assert calls == [models[0].network, models[2].network]


def latents(folder: Path, classes: int = 3) -> training.TrainingData:
    """Eight samples, as `encode` writes them."""
    samples = [(f"{i:03d}", np.zeros((1, 8, 8), np.uint8), i % classes) for i in range(8)]
    header = {"classes": [str(i) for i in range(classes)], "codec": plain_header("identity", 0.5, [1, 8, 8])}
    write_latents(samples, folder, 8, header)
    return training.TrainingData(folder, 0, 4, Ranks(0, 1, torch.device("cpu")), print)


def test_flips_mirror_every_second_image_by_its_position(tmp_path, monkeypatch):
    """Whatever the batch and the number of processes; another epoch mirrors other images."""
    samples = [(f"{i:03d}", np.arange(64, dtype=np.uint8).reshape(1, 8, 8) + i, 0) for i in range(8)]
    header = {"classes": ["0"], "codec": plain_header("identity", 0.5, [1, 8, 8])}
    write_latents(samples, tmp_path / "latents", 8, header)

    for name in ("any", "of_first"):  # the processes are asked one after another
        monkeypatch.setattr(Ranks, name, lambda ranks, value: value)

    def served(batch: int, world: int = 1, flip: bool = True) -> torch.Tensor:
        ranks = [Ranks(rank, world, torch.device("cpu")) for rank in range(world)]
        processes = [training.TrainingData(tmp_path / "latents", 0, batch, each, print, flip=flip) for each in ranks]
        return torch.cat([data.batch_at(seen)[0] for seen in range(0, 64, batch) for data in processes])

    plain, flipped = served(8, flip=False), served(8)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], plain[~mirrored]) and torch.equal(flipped[mirrored], plain.flip(3)[mirrored])
    assert 20 < mirrored.sum() < 44 and not torch.equal(mirrored[:8], mirrored[8:16])
    assert torch.equal(served(4), flipped) and torch.equal(served(8, world=2), flipped)


def test_machines_with_different_data_do_not_train_together(tmp_path, monkeypatch):
    """The first process's number comes from its index, those of the others have to be the same."""
    mine = latents(tmp_path / "latents")
    told = []

    def of_first(self: Ranks, value: float) -> float:
        told.append(value)
        return told[0]

    monkeypatch.setattr(Ranks, "of_first", of_first)
    alike = latents(tmp_path / "alike")
    assert alike.loader.count == mine.loader.count and float(int(told[0])) == told[0] < 2**48
    with pytest.raises(
        UserError, match=r"other/index.json is not the same on all machines: run `dvc pull data/latents`"
    ):
        latents(tmp_path / "other", classes=4)


def test_a_training_verifies_its_shards_before_it_starts(tmp_path, monkeypatch):
    """Processes of one machine share them: this one has the second shard, and the first is another one's."""
    latents(tmp_path / "latents")
    shard = tmp_path / "latents/000000.tar"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    place = 0, 4, Ranks(0, 1, torch.device("cpu")), print
    with pytest.raises(UserError, match=r"000000.tar is not what was written \(its SHA-256 differs\): run `dvc pull`"):
        training.TrainingData(tmp_path / "latents", *place)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=r"000000.tar is not what was written"):  # nobody says who has the others
        training.TrainingData(tmp_path / "latents", *place)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    training.TrainingData(tmp_path / "latents", *place)


def teacher_file(path: Path, **changes: Any) -> Path:
    model = tiny_model()
    header = {
        "model": "teacher", "network": model.settings.to_dict(), "precision": "fp32", "sigma_d": 0.5,
        "classes": ["0", "1", "2"], "codec": plain_header("identity", 0.5, [1, 8, 8]), "label_dropout": 0.0,
    }  # fmt: skip
    weights.save(path, model.state_dict(), {**header, **changes})
    return path


def test_a_fitting_teacher_is_frozen_and_in_eval_mode(tmp_path):
    data, plain = latents(tmp_path / "latents"), StudentSettings(**METHOD)
    guided = StudentSettings(**METHOD, guidance=(1.0, 2.0))
    for settings, dropout in ((plain, 0.0), (plain, 0.1), (guided, 0.1)):
        path = teacher_file(tmp_path / "model.safetensors", label_dropout=dropout)
        teacher, header = training.fitting_teacher(path, data, settings)
        assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
        assert header["label_dropout"] == dropout


def test_a_teacher_with_a_guide_is_one_that_can_be_guided(tmp_path):
    """Its student starts from the teacher alone."""
    state, header = weights.load(teacher_file(tmp_path / "model.safetensors"))
    guide, settings = tiny_model(4, width=16), StudentSettings(**METHOD, guidance=(1.0, 2.0))
    entry = {"network": guide.settings.to_dict(), "file": "guide.pkl"}
    weights.save(tmp_path / "model.safetensors", *trained.guided_by(state, header, guide.state_dict(), entry))
    data = latents(tmp_path / "latents")
    teacher, _ = training.fitting_teacher(tmp_path / "model.safetensors", data, settings)
    assert teacher.guide is not None and not any(value.requires_grad for value in teacher.guide.parameters())
    student = build.new_student(teacher, settings, 0)
    assert student.guide is None and not any(name.startswith("guide.") for name in student.state_dict())


@pytest.mark.parametrize(
    ("changes", "guidance", "message"),
    [
        (
            {"codec": plain_header("identity", 1.0, [1, 8, 8])}, None,
            "was trained on another encoding than data/latents: run `scm run train_teacher`",
        ),
        (
            {"classes": ["0", "1"]}, None,
            "knows 2 classes, data/latents has 3: train a teacher on these data, or prepare the "
            "teacher's data",
        ),
        (
            {}, (1.0, 2.0),
            "cannot be guided, as it was never trained without labels: remove guidance from the method, train a "
            "teacher with label_dropout 0.1, or name a select.guide",
        ),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(tmp_path, changes, guidance, message):
    path = teacher_file(tmp_path / "model.safetensors", **changes)
    with pytest.raises(UserError) as caught:
        training.fitting_teacher(path, latents(tmp_path / "latents"), StudentSettings(**METHOD, guidance=guidance))
    assert str(caught.value) == f"{path} {message}"


SCM = {**OWN_VALUES, "tangent_warmup": 3072, "sigma_d": 0.5, "leave_out_overflow": False}


def fields_of(objective: Any) -> dict[str, Any]:
    return {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}


@pytest.mark.parametrize("guidance", [None, [1.1, 1.9]])
def test_the_objectives_are_what_params_yaml_says_to_the_last_field(guidance):
    params, teacher = params_of_all(guidance, **({"select.guidance.student": [1.5]} if guidance else {})), tiny_model()
    scale = None if guidance is None else (1.1, 1.9)
    distilled = {**SCM, "teacher": teacher, "guidance": scale}
    ect = {name: SCM[name] for name in ("sigma_d", "p_mean", "p_std", "label_dropout")}
    ect |= {"q": 4.0, "k": 6.0, "b": 0.5, "doubling": 49152, "c": 0.03}
    t_max = math.atan(50.0 / 0.5)
    levels = [(50**0.2 + i / 4 * (0.01**0.2 - 50**0.2)) ** 5 for i in range(5)]
    grid = (0.0, *(time_of_sigma(sigma, 0.5) for sigma in reversed(levels)))
    trajectory = {name: distilled[name] for name in ("sigma_d", "teacher", "guidance", "p_mean", "p_std")}
    trajectory |= {name: SCM[name] for name in ("label_dropout", "adaptive_weighting")}
    trajectory |= {
        "sigmas": pytest.approx((*levels, 0.0)),
        "classes": 3,
        "kept": 2,
        "uses": 3,
        "from_noise": 0.4,
        "seed": seed_of(7, "kd"),
    }
    trajectory |= {"every": 1, "solved": {}}
    expected = {
        "sct": (ConsistencyTraining, SCM),
        "scd": (ConsistencyDistillation, distilled),
        "discrete": (DiscreteDistillation, {**distilled, "roundoff": 2.0**-24, "grid": pytest.approx(grid)}),
        "multistep": (MultistepDistillation, {**distilled, "segments": 3, "t_max": t_max}),
        "ect": (EasyConsistencyTuning, ect),
        "kd": (TrajectoryDistillation, trajectory),
        "ayf": (FlowMapDistillation, {**distilled, "r_max": 0.9}),
        "facm": (FlowAnchoredDistillation, {**distilled, "anchor": 0.5}),
        "meanflow": (MeanFlow, {**SCM, "jumps": 0.6, "weight_p": 0.7, "weight_c": 0.01}),
    }
    for method, (kind, fields) in expected.items():
        objective, auxiliary = training.student_objective(
            method, params.student.method(method), params.sampler, teacher, 7
        )
        assert auxiliary is None and type(objective) is kind and fields_of(objective) == fields
    of_scores = {"scd_vsd": ConsistencyAndScoreDistillation, "rcm": ScoreRegularizedConsistency}
    of_scores |= {"dmd": DistributionMatching}
    for method, kind in {**of_scores, "vsd": VariationalScoreDistillation}.items():
        settings = params.student.method(method)
        objective, auxiliary = training.student_objective(method, settings, params.sampler, teacher, 7)
        assert auxiliary is not None and type(objective) is kind
        fields = fields_of(objective)
        fake, consistency = fields.pop("fake"), fields.pop("consistency")
        assert fields.pop("steps", None) == (3 if method in ("rcm", "dmd") else None)
        assert fields == {
            "sigma_d": 0.5, "t_max": t_max, "weight": 0.7, "p_mean": 0.3, "p_std": 1.9, "teacher": teacher,
            "fake_p_mean": -0.6, "fake_p_std": 1.5, "updates": 2, "guidance": scale, "label_dropout": 0.2,
            "adaptive_weighting": False,
        }  # fmt: skip
        assert auxiliary.module is fake and auxiliary.lr_scale == pytest.approx(3e-4 / 1e-3)
        assert (consistency is None) == (method == "vsd")
        regression = TrajectoryDistillation, {**trajectory, "every": 2, "seed": seed_of(7, "dmd")}
        assert consistency is None or (type(consistency), fields_of(consistency)) == (
            regression if method == "dmd" else (Distillation, distilled)
        )


def test_the_adversary_is_what_params_yaml_says_and_follows_from_the_seed():
    params, teacher = params_of_all(), tiny_model()
    settings = params.student.method("scd_gan")

    def made(seed: int) -> tuple[Any, Any]:
        return training.student_objective("scd_gan", settings, params.sampler, teacher, seed)

    (objective, auxiliary), (_, same), (_, other) = map(made, (0, 0, 1))
    assert type(objective) is ConsistencyAndAdversary
    fields = fields_of(objective)
    heads, consistency = fields.pop("discriminator"), fields.pop("consistency")
    assert fields == {
        "sigma_d": 0.5, "t_max": math.atan(50.0 / 0.5), "weight": 0.6, "p_mean": 0.1, "p_std": 1.2, "guidance": None,
        "features": BlockFeatures(teacher, 3), "label_dropout": 0.2,
    }  # fmt: skip
    assert fields_of(consistency) == {**SCM, "teacher": teacher, "guidance": None}
    assert auxiliary.module is heads and auxiliary.lr_scale == pytest.approx(2e-4 / 1e-3)
    state, again, others = (each.module.state_dict() for each in (auxiliary, same, other))
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert not torch.equal(others["heads.0.0.weight"], state["heads.0.0.weight"])
    features = objective.features(torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2]), torch.tensor([1, -1]))
    assert [judged.shape[:2] for judged in heads(features)] == [(2, 1)] * 3


def test_more_heads_than_blocks_are_refused_in_one_line():
    params = params_of_all()
    settings = params.student.method("scd_gan")
    own = settings.own.model_copy(update={"gan": settings.own.gan.model_copy(update={"heads": 11})})
    with pytest.raises(UserError) as caught:
        settings = settings.model_copy(update={"own": own})
        training.student_objective("scd_gan", settings, params.sampler, tiny_model(), 0)
    assert str(caught.value) == (
        "student.scd_gan.gan.heads = 11: the network has 10 blocks; use no more heads than these"
    )


def test_the_fake_score_starts_from_the_teacher_with_its_own_dropout_and_follows_from_the_seed():
    params, teacher = params_of_all([1.1, 1.9], **{"select.guidance.student": [1.5]}), tiny_model()
    settings = params.student.method("vsd")

    def fake_score(seed: int) -> Any:
        _, auxiliary = training.student_objective("vsd", settings, params.sampler, teacher, seed)
        assert auxiliary is not None
        return auxiliary.module

    one, same, other = map(fake_score, (0, 0, 1))
    assert one.network.settings == build.student_settings(teacher.settings, settings)
    state = one.network.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in teacher.network.state_dict().items())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2])
    assert not one.network.log_weight(t).any() and not one.log_weight_head(t).any()
    probabilities = {getattr(part, "dropout_probability", 0.0) for part in one.network.modules()} - {0.0}
    assert probabilities == {0.25}
    names = one.state_dict().keys()
    assert all(torch.equal(one.state_dict()[name], same.state_dict()[name]) for name in names)
    assert not torch.equal(one.log_weight_head.features.freqs, other.log_weight_head.features.freqs)
    assert not torch.equal(one.log_weight_head.features.freqs, one.network.log_weight_head.features.freqs)
    scales = torch.tensor([1.1, 1.9])
    assert torch.equal(one.network.eval()(x, t, None, guidance=scales), teacher.eval()(x, t, None))


def test_the_fake_score_learns_at_its_own_rate():
    params, teacher = params_of_all(), tiny_model()
    settings = params.student.method("vsd")
    _, auxiliary = training.student_objective("vsd", settings, params.sampler, teacher, 0)
    student = build.new_student(teacher, settings, 0)
    header = {"model": "vsd", "network": student.settings.to_dict()}
    optimizer = make_optimizer(student, auxiliary, training.training_settings(params, settings, "student vsd", header))
    groups = [(len(group["params"]), group["lr_scale"]) for group in optimizer.param_groups]
    assert auxiliary is not None
    fake = len(list(auxiliary.module.parameters()))
    assert groups == [(len(list(student.parameters())), 1.0), (fake, pytest.approx(0.3))]


T_MAX = math.atan(64.0 / 0.5)
"""Where the students of these tests start; params.yaml says another time."""


def header(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "sigma_d": 0.5, "t_max": T_MAX, "network": {"guidance": False}, **changes}


ALONE = {1: {"guidance_scale": 1.0}}
TWO = {**ALONE, 2: {"guidance_scale": 1.0, "t_mid": 0.9}}


def samplers_of(params: Params, of: dict[str, Any], choices: dict[int, Any]) -> list[Sampler]:
    """The samplers that measure a model for which selection made these choices."""
    found = sampling.measured_samplers(params, {**of, "sampling": choices})
    assert [choice for _, choice in found][-1] == choices[max(choices)]
    return [sampler for sampler, _ in found]


def times_of(sampler: Any, inputs: int = 2) -> list[float]:
    """Times at which a sampler asks for F, read off a stand-in for the network."""
    seen: list[float] = []

    def function(x: torch.Tensor, t: torch.Tensor, *further: torch.Tensor) -> torch.Tensor:
        assert len(further) == inputs - 2
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    sampler.run(function, SampleNoise([0], [1, 2, 2]))
    return seen


def test_samplers_follow_from_the_header():
    params = params_of_all()
    t_max = math.atan(50.0 / 0.5)
    few, full = samplers_of(params, header("teacher"), {18: {"guidance_scale": 1.0}})
    assert (few.nfe, len(times_of(few)), full.nfe, len(times_of(full))) == (2, 2, 35, 35)
    assert times_of(few)[0] == times_of(full)[0] == pytest.approx(t_max, abs=1e-6)
    for method in ("scd", "sct", "discrete", "facm", "scd_vsd"):
        one, two = samplers_of(params, header(method), TWO)
        assert (one.nfe, two.nfe) == (1, 2)
        assert times_of(one) == pytest.approx([T_MAX]) and times_of(two) == pytest.approx([T_MAX, 0.9])
    (only,) = samplers_of(params, header("vsd"), ALONE)
    assert only.nfe == 1 and times_of(only) == pytest.approx([T_MAX])
    (jumps,) = samplers_of(params, header("multistep", segments=3), {3: {"guidance_scale": 1.0}})
    assert jumps.nfe == 3
    assert times_of(jumps, 3) == pytest.approx([T_MAX, T_MAX * 2 / 3, T_MAX / 3])
    params = params_of_all(**{"evaluate.flow_map_steps": [4, 1]})
    one, four = samplers_of(params, header("meanflow", any_steps=True), {4: ALONE[1], 1: ALONE[1]})
    assert (one.nfe, four.nfe) == (1, 4) and times_of(one, 3) == pytest.approx([T_MAX])
    assert times_of(four, 3) == pytest.approx([T_MAX, T_MAX * 3 / 4, T_MAX / 2, T_MAX / 4])


def test_each_number_of_steps_has_its_candidates_and_two_have_a_second_time():
    params = params_of_all([1.0, 2.0], **{"select.guidance.student": [1.2, 1.5]})
    told = {"network": {"guidance": True}}
    for method in ("scd", "discrete", "facm", "scd_vsd"):
        assert sampling.ways(params, header(method, **told)) == [
            (1, 1.2, None), (1, 1.5, None), *((2, scale, t_mid) for scale in (1.2, 1.5) for t_mid in (0.6, 0.8, 1.1)),
        ]  # fmt: skip
    assert sampling.ways(params, header("sct")) == [(1, 1.0, None), *((2, 1.0, t) for t in params.select.t_mid)]
    assert sampling.ways(params, header("vsd", **told)) == [(1, 1.2, None), (1, 1.5, None)]
    assert sampling.ways(params, header("multistep", segments=3)) == [(3, 1.0, None)]
    assert sampling.ways(params, header("teacher")) == [(18, 1.0, None)]
    params = params_of_all(**{"evaluate.flow_map_steps": [4, 1]})
    for method in ("ayf", "meanflow"):
        assert sampling.ways(params, header(method, any_steps=True)) == [(1, 1.0, None), (4, 1.0, None)]


def test_a_guided_teacher_takes_twice_the_evaluations_and_a_guided_student_none_more():
    scales = {"select.guidance.teacher": [1.0, 1.7], "select.guidance.student": [1.5]}
    params, plain = params_of_all([1.1, 1.9], **scales), params_of_all()
    told = {"network": {"guidance": True}}
    teacher = header("teacher", label_dropout=0.1)
    for scale, evaluations in ((1.7, [4, 70]), (0.0, [4, 70]), (1.0, [2, 35])):
        assert [sampler.nfe for sampler in samplers_of(params, teacher, {18: {"guidance_scale": scale}})] == evaluations
    assert [sampler.nfe for sampler in samplers_of(params, header("scd", **told), TWO)] == [1, 2]
    cases = {
        "a teacher": (params, teacher, (1.0, 1.7), [False, True]),
        "one that is not guided": (plain, header("teacher"), (1.0,), [False]),
        "a student that is told the scale": (params, header("scd", **told), (1.5,), [True]),
        "the same at 1": (plain, header("scd", **told), (1.0,), [True]),
        "a student that is not": (params, header("sct"), (1.0,), [False]),
        "one of a file from before": (params, header("sct", network={}), (1.0,), [False]),
    }
    for name, (settings, of, scales, guided) in cases.items():
        assert sampling.scales_of(settings, of) == scales, name
        assert [sampling.is_guided(of, scale) for scale in scales] == guided, name
    assert [trained.evaluations_per_call(header("teacher"), scale) for scale in (1.0, 1.7)] == [1, 2]
    assert trained.evaluations_per_call(header("scd", **told), 1.7) == 1


def test_a_teacher_that_never_went_without_labels_is_not_guided():
    """params.yaml does not know how an imported teacher was trained."""
    params = params_with({"teacher.label_dropout": 0.1, "select.guidance.teacher": [1.0, 1.7]})
    with pytest.raises(UserError) as caught:
        sampling.scales_of(params, header("teacher"))
    assert str(caught.value) == (
        "params.yaml: select.guidance.teacher = 1.7: this teacher was never trained without labels and cannot be "
        "guided; write [1.0]"
    )


def test_a_selected_model_is_loaded_with_how_it_is_sampled(tmp_path):
    teacher_file(tmp_path / "model.safetensors", label_dropout=0.1)
    with pytest.raises(UserError, match=r"sampling\.json is missing: run `scm run` first$"):
        trained.load_selected(tmp_path)
    write_json(tmp_path / "sampling.json", {18: {"guidance_scale": 1.25}})
    _, of_file = trained.load_model(tmp_path / "model.safetensors")
    model, found = trained.load_selected(tmp_path)
    assert found == {**of_file, "sampling": {18: {"guidance_scale": 1.25}}} and not model.training


ONE, SECOND = {"guidance_scale": 1.5}, {"guidance_scale": 1.3, "t_mid": 1.1}


@pytest.mark.parametrize(
    ("model", "choices"),
    [
        ("scd", {"1": ONE, "2": SECOND}), ("scd", {"1": ONE, "2": SECOND, "4": SECOND}), ("vsd", {"1": ONE}),
        ("multistep", {"3": ONE}), ("teacher", {"18": ONE}),
    ],
)  # fmt: skip
def test_choices_that_fit_the_model_are_read(model, choices):
    given = header(model, **({"segments": 3} if model == "multistep" else {}))
    found = trained.with_choices(given, choices, "sampling.json")
    assert found == {**given, "sampling": {int(steps): choice for steps, choice in choices.items()}}


def test_the_one_choice_of_an_older_students_file_is_that_of_all_its_steps():
    """An earlier champion has such a file, and is measured anew by a new ruler."""
    scd = trained.with_choices(header("scd"), SECOND, "sampling.json")
    assert scd["sampling"] == {1: {"guidance_scale": 1.3}, 2: SECOND}
    assert trained.with_choices(header("vsd"), ONE, "sampling.json")["sampling"] == {1: ONE}
    assert trained.with_choices(header("multistep", segments=3), ONE, "sampling.json")["sampling"] == {3: ONE}


@pytest.mark.parametrize(
    ("model", "choices", "problem"),
    [
        ("teacher", {"guidance_scale": 1.0}, ": guidance_scale = 1.0: must be a mapping"),  # scm's older form
        ("scd", {}, " names no number of steps"),
        ("scd", {"1": ONE, "two": SECOND}, " has a key that is not a number of steps"),
        ("scd", {"1": ONE, "2": {**SECOND, "t_mid": 1.6}}, ": 2.t_mid = 1.6: must lie between 0 and pi / 2"),
        ("scd", {"1": ONE, "2": ONE}, ": 2 lacks t_mid"),
        ("scd", {"2": SECOND}, " has 2; scd is sampled in 1"),
        ("multistep", {"1": ONE}, " has 1; multistep is sampled in 3"),
        ("multistep", {"3": ONE, "4": ONE}, " has 3, 4; multistep is sampled in 3"),
    ],
)
def test_choices_that_do_not_fit_the_model_are_refused_in_one_line(model, choices, problem):
    given = header(model, **({"segments": 3} if model == "multistep" else {}))
    with pytest.raises(UserError) as caught:
        trained.with_choices(given, choices, "sampling.json")
    assert str(caught.value) == f"sampling.json{problem}: delete it and run `scm run`"


def test_a_student_is_probed_as_it_is_sampled():
    params, student = params_of_all(), tiny_model(guidance=True)
    settings = params.student.method("multistep").model_copy(update={"guidance": (1.0, 2.0), "batch": 16})
    probe = training.student_probe(params, settings, student, Images())
    assert (probe.segments, probe.guidance) == (settings.segments, 1.0)
    for method in ("ayf", "meanflow", "facm"):
        settings = params.student.method(method).model_copy(update={"batch": 16})
        assert training.student_probe(params, settings, student, Images()).segments == 1
    assert probe.t_max == pytest.approx(math.atan(params.sampler.sigma_max / 0.5))
    plain = params.student.method("sct")
    assert training.student_probe(params, plain, tiny_model(), Images()).guidance is None


class Images:
    """What a probe takes of the training data."""

    def batch_at(self, images_seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(images_seen)
        return torch.randn(64, 1, 8, 8, generator=draws), torch.arange(64) % 3


def test_trainings_that_do_not_fit_on_the_disk_are_told_beforehand(tmp_path, monkeypatch):
    params, usage = params_with({}), namedtuple("usage", "free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(10**6))
    warning = shortage_of(params, tmp_path, ["prepare", "train_teacher", "train_student@scd", "evaluate@scd"])
    assert warning is not None and warning.startswith("warning: 2 trainings write about ")
    assert f"bytes into {tmp_path}/.work, and its disk has 1,000,000 free: free some space" in warning
    assert shortage_of(params, tmp_path, ["prepare", "evaluate@scd"]) is None
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(10**12))
    assert shortage_of(params, tmp_path, ["train_teacher"]) is None


@pytest.mark.parametrize("architecture", names())
@pytest.mark.parametrize("size", [(8, 1, 1), (16, 2, 1), (64, 4, 3)])
def test_the_disk_is_weighed_without_torch_by_more_parameters_than_any_network_has(architecture, size):
    width, levels, blocks = (size[0], 1, size[2]) if architecture == "dit" else size
    shape = {"width": width, "multipliers": tuple(range(1, levels + 1)), "blocks": blocks, "channels_per_head": 8}
    network = params_with({}).network.model_copy(update={**shape, "architecture": architecture, "attention": ()})
    with torch.device("meta"):
        model = Model(build.network_settings(network, 0, [16, 8, 8]))
    count = sum(value.numel() for value in model.parameters())
    assert count < most_parameters(network) < 40 * count


def test_a_plan_whose_trainings_fit_imports_no_torch():
    code = """
import sys
from pathlib import Path
from scm.build.room import shortage_of
from scm.presets.apply import preview
root = Path()
assert shortage_of(preview(root / "params.yaml", root, "digits"), root, ["train_teacher"]) is None
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
