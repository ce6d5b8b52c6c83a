"""The paper's presets against its figures: each setting of pipelines/paper_tables.yaml, and the networks' sizes."""

import dataclasses
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from scm.build import models as build
from scm.ema.profiles import coefficients
from scm.errors import UserError
from scm.networks import Model, NetworkSettings, flavoured
from scm.params import Params, dump, load, validate
from scm.params.project import Project
from scm.pipeline.stage import Stage
from scm.presets import apply
from scm.presets.paper import figures_of
from scm.results.fingerprint import Inputs
from stages import prepare

ROOT = Path(__file__).parents[2]
TABLES = YAML(typ="safe", pure=True).load(ROOT / "pipelines/paper_tables.yaml")
GOLDEN = json.loads((ROOT / "tests/golden/edm2.json").read_text())["param_counts"]
GOLDEN_EDM = json.loads((ROOT / "tests/golden/edm.json").read_text())["ddpmpp_cifar_uncond_params"]
IMAGENET = [
    (f"{dataset}-{size.lower()}", dataset, size)
    for dataset in ("imagenet64", "imagenet512")
    for size in TABLES[dataset]["teacher"]["iterations_k"]
]
NAMES = ["cifar10", "cifar10-ect", *(name for name, _, _ in IMAGENET)]
CLASSES = 1000


@functools.cache
def applied(name: str) -> Params:
    """The parameters after `scm preset apply NAME`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        shutil.copy(ROOT / "params.yaml", path)
        apply.apply(path, ROOT, name)
        return load(path)


def leaves(block: dict[str, Any], size: str | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of one column of a block."""
    for key, value in block.items():
        if isinstance(value, dict) and size in value:
            yield f"{prefix}{key}", value[size]
        elif isinstance(value, dict):
            yield from leaves(value, size, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


Reader = Callable[[Params, Any], Any]
"""(all parameters, those of one training stage) -> the value as the paper prints it."""
READERS: dict[str, Reader] = {
    "batch_size": lambda _, training: training.batch,
    "iterations_k": lambda _, training: training.images / training.batch / 1000,
    "precision": lambda _, training: training.precision,
    "p_mean": lambda _, training: training.p_mean,
    "p_std": lambda _, training: training.p_std,
    "label_dropout": lambda _, training: training.label_dropout,
    "dropout": lambda _, training: training.dropout,
    "dropout_res_le_16": lambda _, training: training.dropout if training.dropout_max_resolution == 16 else None,
    "optimizer": lambda _, training: {"adam": "Adam", "radam": "RAdam"}[training.optimizer.name],
    "betas": lambda _, training: list(training.optimizer.betas),
    "eps": lambda _, training: training.optimizer.eps,
    "adam_betas": lambda _, training: list(training.optimizer.betas) if training.optimizer.name == "adam" else None,
    "adam_eps": lambda _, training: training.optimizer.eps if training.optimizer.name == "adam" else None,
    "lr": lambda _, training: training.lr.max,
    "lr_max": lambda _, training: training.lr.max,
    "lr_schedule": lambda _, training: training.lr.decay,
    "lr_decay_tref": lambda _, training: (
        training.lr.decay_from / training.batch if training.lr.decay == "inverse_sqrt" else None
    ),
    "tangent_norm_c": lambda _, training: training.tangent_norm_c,
    "tangent_warmup_k": lambda _, training: training.tangent_warmup / training.batch / 1000,
    "cfg_scale_max": lambda _, training: training.guidance[1],
    "sigma_rel": lambda params, _: one_of(params.select.sigma_rel.teacher),
    "sigma_rel_sampling": lambda params, _: one_of(params.select.sigma_rel.student),
    "ema_halflife_mimg": lambda params, _: params.ema.halflife / 1e6,
    "sampler_steps": lambda params, _: params.sampler.teacher_steps,
    "nfe": lambda params, _: 2 * params.sampler.teacher_steps - 1,
    "network": lambda params, _: {("ddpmpp", "add"): "DDPM++ without adaptive group norm"}[
        params.network.architecture, params.network.modulation
    ],
    "dropout.sct": lambda params, _: params.student.method("sct").dropout,
    "dropout.scd": lambda params, _: params.student.method("scd").dropout,
    "fake_score.lr_max": lambda _, training: training.own.fake_score.lr_max,
    "fake_score.dropout": lambda _, training: training.own.fake_score.dropout,
    "fake_score.p_mean": lambda _, training: training.own.fake_score.p_mean,
    "fake_score.p_std": lambda _, training: training.own.fake_score.p_std,
    "fake_score.updates_per_generator_update": lambda _, training: training.own.fake_score.updates,
    "vsd.p_mean": lambda _, training: training.own.vsd.p_mean,
    "vsd.p_std": lambda _, training: training.own.vsd.p_std,
    "vsd.weight": lambda _, training: training.own.vsd.weight,
    "vsd.t_max": lambda params, _: f"arctan({params.sampler.sigma_max:g}/sigma_d)",
}
NO_SETTINGS = {"fid", "fake_score.ema", *(f"fid_1step_at_k.{m}.{k}" for m in ("ECT", "sCT") for k in (100, 200, 400))}
"""Results that stand among the settings, and that the fake score keeps no average: there is nothing to set."""


def one_of(values: tuple[float, ...]) -> float:
    (value,) = values
    return value


def columns() -> Iterator[tuple[str, list[str], dict[str, Any], str | None]]:
    """(preset, the models that a block of the tables speaks of, the block, size) for every block and column."""
    for name, dataset, size in IMAGENET:
        students = list(applied(name).student.declared)
        models = {"shared": ["teacher", *students], "teacher": ["teacher"], "consistency": students}
        for section, block in TABLES[dataset].items():
            like = ["scd_vsd", "vsd"] if section == "scd_vsd" else [section]
            yield name, models.get(section, like), block, size
    cifar = TABLES["cifar10"]
    yield "cifar10", ["teacher"], cifar["teacher"], None
    yield "cifar10-ect", ["teacher"], cifar["teacher"], None
    yield "cifar10", ["scd", "sct"], cifar["consistency"], None
    yield "cifar10-ect", ["sct"], cifar["vs_ect_table3"], None


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_the_papers(name):
    params = applied(name)
    compared = 0
    for preset, models, block, size in columns():
        for key, published_value in leaves(block, size) if preset == name else ():
            for model in models if key not in NO_SETTINGS else ():
                training = params.teacher if model == "teacher" else params.student.method(model)
                assert READERS[key](params, training) == published_value, (model, key)
                compared += 1
    assert compared > 5


def test_what_is_compared_is_all_that_the_tables_hold():
    assert set(TABLES) == {"sizes", "imagenet64", "imagenet512", "cifar10", "results", "figures"}
    assert set(TABLES["cifar10"]) == {"teacher", "consistency", "vs_ect_table3"}
    keys = {key for _, _, block, size in columns() for key, _ in leaves(block, size)}
    assert keys == READERS.keys() | NO_SETTINGS


def test_every_column_has_its_preset_and_every_result_its_method():
    rows = {name: apply.paper_row(ROOT, name) for name in apply.names(ROOT)}
    rows = {name: (row["dataset"], row.get("size")) for name, row in rows.items() if row}
    assert rows == {"cifar10": ("cifar10", None), "cifar10-ect": ("cifar10", None)} | {
        name: (dataset, size) for name, dataset, size in IMAGENET
    }
    called = {"multistep_scd": "multistep", "vsd_ablation_M": "vsd"}
    for name, (dataset, _) in rows.items():
        if name != "cifar10-ect":
            with_results = {called.get(method, method) for method in TABLES["results"][dataset]} - {"teacher"}
            assert set(applied(name).student.declared) == with_results
    assert applied("cifar10-ect").student.declared == ("sct",)


def published_scales(name: str) -> dict[str, list[float]]:
    """The best guidance scales for FID and for FDD, of the students together and for all numbers of steps."""
    row = apply.paper_row(ROOT, name)
    size, found = row.get("size"), {"teacher": set[float](), "student": set[float]()}
    for model, block in TABLES["results"][row["dataset"]].items():
        if model != "vsd_ablation_M" or size == "M":
            values = dict(leaves(block, size))
            scales = {scale for key, scale in values.items() if re.search(r"guidance_f(id|dd)(_[12]step)?$", key)}
            found["teacher" if model == "teacher" else "student"] |= scales
    return {kind: sorted(scales) or [1.0] for kind, scales in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_comment_derives_from_the_tables_stays_so(name):
    """Values that the tables do not print for a method, and that the presets therefore take from another."""
    params = applied(name)
    student, dataset = params.student, apply.paper_row(ROOT, name)["dataset"]
    others = {"imagenet512": {"multistep": "teacher", "scd_vsd": "teacher", "vsd": "teacher"}}.get(dataset, {})
    scd = {} if name == "cifar10-ect" else {"scd": "teacher"}
    assert student.methods == {**scd, "sct": "teacher", **others}
    assert params.evaluate.models == ("teacher", *student.methods)
    assert (student.common.tangent, student.common.adaptive_weighting) == ("normalized", True)
    assert {kind: list(scales) for kind, scales in params.select.guidance} == published_scales(name)
    assert (params.evaluate.samples, params.select.t_mid) == (50_000, (1.1,))
    assert student.common.dropout_max_resolution == (32 if dataset == "cifar10" else 16)
    assert not params.data.flip
    assert params.teacher.augment == (0.12 if dataset == "cifar10" else 0.0)  # EDM, app. F.2
    assert params.teacher.dropout_max_resolution >= params.shape[1]
    if dataset == "cifar10":
        assert (params.shape, params.data.labels, params.codec.normalize) == ([3, 32, 32], False, "none")
        assert student.common.tangent_warmup == 10_000 * student.common.batch and student.common.tangent_norm_c == 0.1
        assert student.common.lr.warmup == 0 and params.teacher.lr.warmup == 10_000_000
        if name == "cifar10-ect":
            by_iterations = TABLES["cifar10"]["vs_ect_table3"]["fid_1step_at_k"]["sCT"]
            assert student.method("sct").images == max(by_iterations) * 1000 * student.common.batch
        return
    assert (
        params.data.labels
        and params.sampler.teacher_steps == (TABLES["results"]["imagenet64"]["teacher"]["nfe"] + 1) / 2
    )
    assert params.teacher.lr.warmup == student.common.lr.warmup == 10_000_000
    if dataset == "imagenet64":
        assert params.shape == [3, 64, 64] and student.method("scd").guidance is None
        return
    assert (params.shape, params.data.resolution, params.codec.normalize) == ([4, 64, 64], 512, "paper")
    scd, multistep, scd_vsd, vsd = (student.method(method) for method in ("scd", "multistep", "scd_vsd", "vsd"))
    assert scd.guidance == multistep.guidance == scd_vsd.guidance == vsd.guidance == (1.0, 2.0)
    assert scd.dropout == multistep.dropout == scd_vsd.dropout == vsd.dropout
    assert multistep.segments in TABLES["results"]["imagenet512"]["multistep_scd"]["fid"]
    assert {**multistep.values(), "segments": None} == {**scd.values(), "segments": None}
    assert vsd.values() == scd_vsd.values()


@pytest.mark.parametrize("name", NAMES)
def test_the_last_snapshots_are_the_averages_that_are_sampled(name):
    """So few are kept, and no average is a sum of several."""
    params = applied(name)
    lengths, snapshots = params.ema.profiles, params.ema.snapshots
    times = [time for time in range(1, snapshots + 1) for _ in lengths]
    for wanted in {*params.select.sigma_rel.teacher, *params.select.sigma_rel.student}:
        factors = coefficients(times, [*lengths] * snapshots, snapshots, wanted)
        expected = [0.0] * len(times)
        expected[lengths.index(wanted) - len(lengths)] = 1.0
        assert factors.tolist() == pytest.approx(expected, abs=1e-9)
    assert snapshots == params.select.progress == 4


@pytest.mark.parametrize("name", NAMES)
def test_each_names_its_data_and_intervals_for_its_batch(name):
    params = applied(name)
    cifar10, imagenet = ("cifar10", "cifar-10-python.tar.gz"), ("imagenet", "ILSVRC2012_img_train.tar")
    source, file = cifar10 if apply.paper_row(ROOT, name)["dataset"] == "cifar10" else imagenet
    assert (params.data.source, params.data.path) == (source, f"data/raw/{file}")
    assert params.runtime.log_every == 100 * params.teacher.batch
    assert (params.runtime.checkpoint_every, params.runtime.checkpoint_minutes) == (None, 15)


def networks(name: str) -> tuple[Params, NetworkSettings]:
    params = applied(name)
    classes = CLASSES if params.data.labels else 0
    return params, build.network_settings(params.network, classes, params.shape, params.teacher.augment)


def count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_teacher_and_students_have_their_parameters(name):
    params, settings = networks(name)
    row = apply.paper_row(ROOT, name)
    with torch.device("meta"):
        teacher = build.new_model(settings, params.teacher, params.seed)
    assert count(teacher) == row["parameters"]
    if "size" in row:
        size = TABLES["sizes"][row["size"]]
        assert params.network.width == size["width"]
        assert count(teacher) == pytest.approx(size["mparams"] * 1e6, rel=0.01)
    for method in params.student.declared:
        training = params.student.method(method)
        shape = build.student_settings(settings, training)
        assert (shape.guidance, shape.segments) == (training.guidance is not None, method == "multistep")
        with torch.device("meta"):
            student = build.new_model(shape, training, params.seed)
        told = 9 * params.network.width * settings.augment  # of augmentation, which students are not
        added = count(student) - (count(teacher) - told)
        inputs = shape.guidance + shape.segments
        assert (added == 0) if not inputs else (0 < added < 0.01 * count(teacher) * inputs)


@pytest.mark.parametrize(("name", "dataset", "size"), IMAGENET)
def test_as_edm2_has_it_the_network_has_edm2s_parameters(name, dataset, size):
    """All but the paper's changes is EDM2's: with its modulation and its own head the count is EDM2's to the last."""
    _, settings = networks(name)
    assert settings.channels_per_head == 64 and settings.attention == (16, 8)
    original = dataclasses.replace(settings, **flavoured("edm2"))
    with torch.device("meta"):
        assert count(Model(original)) == GOLDEN[f"{dataset.replace('imagenet', 'img')}-{size.lower()}"]


def test_as_edm_has_it_the_network_has_edms_parameters():
    head = 129  # w_phi, which EDM's network has not
    _, settings = networks("cifar10-ect")
    assert settings.augment
    with torch.device("meta"):
        assert count(Model(dataclasses.replace(settings, augment=False))) - head == GOLDEN_EDM
    assert settings.channels_per_head == settings.width * max(settings.multipliers)  # one head
    _, adaptive = networks("cifar10")
    assert adaptive == dataclasses.replace(settings, modulation="double_norm")


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_are_the_papers_in_what_it_changes(name):
    _, settings = networks(name)
    assert (settings.embedding, settings.c_noise, settings.sigma_d, settings.log_weight) == (
        "positional", "t", 0.5, "linear",
    )  # fmt: skip
    assert settings.modulation == ("add" if name == "cifar10-ect" else "double_norm")


@pytest.mark.parametrize("name", NAMES)
def test_the_header_cites_the_table_and_the_published_figures(name):
    row = apply.paper_row(ROOT, name)
    header = apply.show(ROOT, name).partition("\nextends")[0]
    dataset, size = row["dataset"], row.get("size")
    table = {"imagenet512": "table 5", "imagenet64": "table 4", "cifar10": "app. G"}[dataset]
    assert ("table 3" if "comparison" in row else table) in header and "arXiv 2410.11081v2" in header
    lines = re.findall(r"^#   (\w+)(?:, 2 segments)?((?: +\d+\.\d\d)+)$", header, flags=re.MULTILINE)
    shown = {method: [float(figure) for figure in figures.split()] for method, figures in lines}
    if "comparison" in row:
        at = TABLES[dataset][row["comparison"]]["fid_1step_at_k"]
        assert shown == {"sct": list(at["sCT"].values()), "ECT": list(at["ECT"].values())}
        return
    figures = figures_of(TABLES, row, 2)
    teacher = figures.pop("teacher")
    cited = f"teacher in {teacher['nfe']} evaluations: FID {teacher['fid']:.2f}"
    cited += f", FDD {teacher['fdd']:.2f}" if "fdd" in teacher else ""
    assert f"#   {cited}\n" in header
    order = ("fid_1step", "fid_2step", "fdd_1step", "fdd_2step")
    assert shown == {method: [block[key] for key in order if key in block] for method, block in figures.items()}
    assert size is None or f"size {size} " in header


@pytest.mark.parametrize("method", ["scd", "sct", "multistep", "scd_vsd", "vsd"])
def test_each_method_of_the_paper_may_be_switched_on_alone(method):
    values = dump(applied("imagenet512-m"))
    values["student"]["methods"], values["evaluate"]["models"] = {method: "teacher"}, ["teacher", method]
    params = validate(values, "params.yaml")
    assert params.student.methods == {method: "teacher"} and dump(params) == values


def test_a_latent_preset_without_weights_is_refused_before_images_are_prepared(tmp_path):
    project = Project(tmp_path, applied("imagenet512-s"))
    with pytest.raises(UserError) as caught:
        prepare.run(Stage("prepare", None, project, Inputs({}, {}, "0" * 64), tmp_path / ".work"))
    expected = "params.yaml: codec.path = null: an autoencoder is needed; write where its weights lie; "
    assert str(caught.value).startswith(expected) and list(tmp_path.iterdir()) == []
