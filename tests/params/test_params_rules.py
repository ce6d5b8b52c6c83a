"""What params.yaml may not say together: each refusal by its text, and that what is allowed can be built."""
# ruff: noqa: E501 (the messages, whole)

import re
from typing import Any

import pytest
import torch

from scm import cli
from scm.ema.reconstruct import snapshot_file
from scm.errors import UserError
from scm.networks import Model, NetworkSettings
from scm.params import dump, validate
from scm.params.architectures import edm2
from scm.params.project import Project
from tests.support.plan_projects import edit
from tests.support.projects import make_project
from tests.support.projects import values_with as with_values

FAKE_SCORE = {"lr_max": 1e-4, "dropout": 0.0, "p_mean": -0.8, "p_std": 1.6, "updates": 1}
DISCRETE = {"images": "128Ki", "dropout": 0.0, "points": 64}
VSD = {
    "images": "128Ki",
    "dropout": 0.0,
    "tangent_warmup": 0,
    "vsd": {"weight": 1.0, "p_mean": 0.4, "p_std": 2.0},
    "fake_score": FAKE_SCORE,
}
CONSTANT = {"max": 1e-3, "warmup": 0, "decay": "constant", "decay_from": 0}
ECT = {"images": "128Ki", "dropout": 0.0, "q": 2.0, "k": 8.0, "b": 1.0, "doubling": "8Ki", "c": 0.0}
MULTISTEP = {"images": "128Ki", "dropout": 0.0, "tangent_warmup": 0, "segments": 2}
GUIDED = {"teacher.label_dropout": 0.1, "student.scd.guidance": [1.2, 2.0]}


def methods(**starts: str) -> dict[str, Any]:
    """These methods switched on."""
    return {"student.methods": starts, "evaluate.models": ["teacher", *starts]}


LATENTS = {"data.source": "folder", "data.channels": 3, "codec.name": "sd_vae"}
DIT = {"network.architecture": "dit", "network.multipliers": [1], "network.attention": [], "network.patch": 2}
IMPOSSIBLE = [
    *(
        (
            {"data.path": f"{scheme}bucket/images"},
            f'data.path = "{scheme}bucket/images": images are read from local disks alone; mount that place, or download it (`dvc import-url` does), and write the local path',
        )
        for scheme in ("s3://", "S3://", "gs://", "hdfs://", "https://", "azure+x.y-1://", "remote://")
    ),
    (
        {"data.path": "file:///data"},
        'data.path = "file:///data": a path stands here without a scheme; take file:// away',
    ),
    *[
        (
            {"data.path": path},
            f'data.path = "{path}": the pipeline writes files there, which must not be taken for images; move the images into a folder of their own, such as data/raw/images, and write its path',
        )
        for path in (".", "..", "../..", "./data", "data/", "data/raw/..", "data/shards", "models/teacher", "results/x")
    ],
    *[
        (
            {"data.path": path},
            f'data.path = "{path}": that is a part of the project itself, not images; move the images into a folder of their own, such as data/raw/images, and write its path',
        )
        for path in (
            "params.yaml",
            "dvc.yaml",
            "./dvc.lock",
            ".dvc",
            ".dvc/cache",
            ".git",
            "stages/",
            "data/../scm/data",
        )
    ],
    (
        {"data.path": "~/images"},
        'data.path = "~/images": ~ is not replaced by a home folder here; write the whole path',
    ),
    ({"data.channels": 3}, "data.channels = 3: the digits are grey; write 1, or data.source: folder"),
    ({"data.labels": False}, "data.labels = false: the digits have labels; write true, or data.source: folder"),
    (
        {"data.resolution": 9},
        "data.resolution = 9: not divisible by 2, as 2 network.multipliers ask; use a multiple of 2 or fewer multipliers",
    ),
    (
        {"codec.normalize": "paper"},
        "codec.normalize = \"paper\": the paper's constants are the SD-VAE's; use measured or none, or codec.name: sd_vae",
    ),
    (
        {"codec.name": "sd_vae"},
        "data.channels = 1: the autoencoder takes colour images; write 3, or codec.name: identity (and 1 more)",
    ),
    (
        {"reference.weights": "models/inception.pth"},
        'reference.weights = "models/inception.pth": the classifier is trained by the pipeline; write null, or another reference.extractor',
    ),
    (
        {"reference.statistics": "a.npz", "reference.statistics_sha256": "0" * 64},
        'reference.statistics = "a.npz": the classifier is trained by the pipeline; write null, or another reference.extractor (and 1 more)',
    ),
    (
        {"reference.extractor": "dinov2"},
        "reference.weights = null: the extractor dinov2 needs its weights; docs/evaluation.md says where to get them",
    ),
    (
        {
            "data.held_out": 0.1,
            "reference.extractor": "inception",
            "reference.weights": "a.pth",
            "reference.statistics": "a.npz",
        },
        "data.held_out = 0.1: reference.statistics are of images that other people chose, held-out ones perhaps among them; write 0.0, or reference.statistics: null",
    ),
    (
        {"reference.extractor": "inception", "reference.weights": "a.pth", "reference.statistics_sha256": "0" * 64},
        'reference.statistics_sha256 = "00000000000000000000000000000000000000000000000000000000...: there is no reference.statistics that it could be the hash of; write null',
    ),
    (
        {"network.modulation": "scale_shift"},
        'network.modulation = "scale_shift": the architecture edm2 has no such modulation; use double_norm or gain, or network.architecture: ddpmpp',
    ),
    (
        {"network.width": 31},
        "network.width = 31: odd, but the time embedding has as many sines as cosines; use an even one (and 1 more)",
    ),
    (
        {"student.scd.guidance": [1.0, 2.0]},
        "student.scd.guidance = [1.0, 2.0]: a teacher can be guided only if it was trained without labels as well; set teacher.label_dropout to 0.1, name a select.guide, or take guidance out",
    ),
    (
        {"select.guidance.teacher": [1.0, 1.5]},
        "select.guidance.teacher = 1.5: a teacher can be guided only if it was trained without labels as well; set teacher.label_dropout to 0.1, name a select.guide, or write [1.0]",
    ),
    (
        {"select.guide": "early.safetensors"},
        'select.guide = "early.safetensors": it would guide nothing, as select.guidance.teacher has only 1 and no student has guidance; add scales such as 1.5, or write null',
    ),
    *(
        (
            {f"{key}_sha256": "0" * 64},
            f'{key}_sha256 = "00000000000000000000000000000000000000000000000000000000...: there is no {key} that it could be the hash of; write null',
        )
        for key in ("teacher.start", "select.guide")
    ),
    (
        {"teacher.label_dropout": 0.1, "select.guidance.student": [1.0, 1.5]},
        "select.guidance.student = 1.5: no student takes a guidance scale; write [1.0], or add guidance: [1.0, 2.0] to a method's block",
    ),
    (
        {**GUIDED, "select.guidance.student": [1.5, 2.5, 2.0]},
        "select.guidance.student = 2.5: outside the guidance of the students; use 1.2 to 2",
    ),
    (
        {
            **methods(scd="teacher", vsd="teacher"),
            "teacher.label_dropout": 0.1,
            "student.scd.guidance": [1.0, 1.2],
            "student.vsd": {**VSD, "guidance": [1.5, 2.0]},
        },
        "select.guidance.student = 1.0: outside the guidance of the students; make their ranges overlap",
    ),
    (
        {"select.coarse": "2Ki"},
        'select.coarse = "2Ki": the coarse search would take more than the 1797 samples of select.samples; use less, or null',
    ),
    ({**GUIDED}, "select.guidance.student = 1.0: outside the guidance of the students; use 1.2 to 2"),
    (
        {"select.progress": 17},
        "select.progress = 17: more than the 16 snapshots of a run; use 16 or less, or raise ema.snapshots",
    ),
    ({"network.attention": [2]}, "network.attention = 2: not a resolution of the U-Net; choose from 8, 4"),
    (
        {"network.channels_per_head": 48},
        "network.channels_per_head = 48: does not divide the 64 channels at resolution 4, which has attention; use a divisor of 64",
    ),
    (
        {"teacher.lr.decay_from": "320Ki"},
        'teacher.lr.decay_from = "320Ki": the cosine decay would begin after the 320Ki images of teacher; use less, or decay: constant',
    ),
    (
        {"teacher.lr.warmup": "321Ki"},
        'teacher.lr.warmup = "321Ki": longer than the 320Ki images of teacher, which would never reach lr.max; use 320Ki or less',
    ),
    (
        {"student.scd.images": "4Ki"},
        'student.scd.lr.decay_from = "64Ki": the cosine decay would begin after the 4Ki images of student.scd; use less, or decay: constant'
        " (and 2 more; `scm preset apply digits --scale 0.1` cuts a budget with all that belongs to it)",
    ),
    (
        {"student.scd": {"images": 16384, "dropout": 0.0, "tangent_warmup": 20000, "lr": CONSTANT}},
        "student.scd.tangent_warmup = 20000: longer than the 16384 images of student.scd, whose tangent would never be whole; use 16384 or less",
    ),
    ({"student.scd.batch": 200000}, 'student.scd.images = "128Ki": less than one batch of 200000; use 200000 or more'),
    (
        {"ema.snapshots": 2000},
        "ema.snapshots = 2000: more than the 1024 steps of student.scd (images / batch); use 1024 or fewer, or raise student.scd.images (and 1 more)",
    ),
    (
        {"runtime.processes": 3},
        "runtime.processes = 3: does not divide the batch of 128 of teacher; use a divisor of 128, or another batch (and 2 more)",
    ),
    (
        {"runtime.checkpoint_every": None, "runtime.checkpoint_minutes": None},
        "runtime.checkpoint_minutes = null: neither images nor minutes say when a training is to be saved; write 15, or set runtime.checkpoint_every",
    ),
    (
        {"runtime.launcher": "srun 'torchrun"},
        'runtime.launcher = "srun \'torchrun": no shell could read it (No closing quotation); close the quotation, or write null',
    ),
    (
        {"runtime.launcher": "'' a"},
        "runtime.launcher = \"'' a\": begins with no program; write the program's name, or null",
    ),
    (
        {"runtime.shard": "full"},
        'runtime.shard = "full": torch\'s fully_shard takes a network with its tangent only as a whole, which saves no memory; block by block, which would, it crashed in a trial (SIGSEGV); write optimizer, or auto',
    ),
    (
        {"student.sct": None},
        "student.sct: student.methods names sct, but its block is missing; add it with images and dropout, or take it out of student.methods",
    ),
    (
        {"evaluate.models": ["teacher", "sct"]},
        'evaluate.models = ["teacher", "sct"]: must be teacher, then student.methods; write [teacher, scd, sct], or take scd out of student.methods (in `dvc exp run`: -S \'~student.methods.scd\')',
    ),
    (
        {"evaluate.models": ["teacher", "sct", "scd"]},
        'evaluate.models = ["teacher", "sct", "scd"]: must be teacher, then student.methods; write [teacher, scd, sct]',
    ),
    (
        {"ema.halflife": 30000},
        "ema.halflife = 30000: more than a fifth of the 128Ki images of student.scd, too long to forget the initial weights; use 26214 or less, or null (and 1 more)",
    ),
    (
        {"ema.halflife": "16Ki", "teacher.images": 80000, "teacher.lr.decay_from": 0},
        'ema.halflife = "16Ki": more than a fifth of the 80000 images of teacher, too long to forget the initial weights; use 16000 or less, or null',
    ),
    (
        {"ema.profiles": [0.0502, 0.0498]},
        "ema.profiles = [0.0502, 0.0498]: equal to three decimals, which name the snapshots' files; use two that differ",
    ),
    (
        {"data.source": "folder", "data.labels": False, "teacher.label_dropout": 0.1},
        "teacher.label_dropout = 0.1: there are no labels to leave out, as data.labels is false; write 0.0, or data.labels: true",
    ),
    (
        {**LATENTS, "data.resolution": 64, "codec.path": "data/vae", "data.flip": True},
        "data.flip = true: the mirror image of a latent is not the latent of the mirror image; write false and put the mirrored images into data.path, or write codec.name: identity",
    ),
    (
        {**LATENTS, "data.resolution": 64, "codec.path": "data/vae", "teacher.augment": 0.12},
        "teacher.augment = 0.12: a distorted latent is not the latent of a distorted image; write 0.0, or codec.name: identity",
    ),
    (
        {"data.source": "folder", "data.labels": False, "student.sct.label_dropout": 0.1},
        "student.sct.label_dropout = 0.1: there are no labels to leave out, as data.labels is false; write 0.0, or data.labels: true",
    ),
    ({"sampler.sigma_min": 80.0}, "sampler.sigma_min = 80.0: must be below sampler.sigma_max; use less than 80.0"),
    (
        {"select.t_mid": [0.6, 1.57]},
        "select.t_mid = 1.57: sampling starts at arctan(sampler.sigma_max / network.sigma_d) = 1.5645; use less",
    ),
    (
        {"evaluate.seed": 1796},
        "evaluate.seed = 1796: evaluation would draw the samples that chose the average; use select.samples (1797) or more",
    ),
    (
        {"evaluate.teacher_few_steps": 35},
        "evaluate.teacher_few_steps = 35: not fewer than the 35 network evaluations of the teacher's 18 Heun steps; use less",
    ),
    (
        {**methods(scd="teacher", scd_vsd="scd"), "student.scd_vsd": {**VSD, "tangent_warmup": "1Ki"}},
        'student.scd_vsd.tangent_warmup = "1Ki": scd, which it starts from, has finished its own warm-up; '
        "write tangent_warmup: 0 in student.scd_vsd",
    ),
    (
        {"network.architecture": "ddpmpp", "network.modulation": "gain"},
        'network.modulation = "gain": the architecture ddpmpp has no such modulation; use double_norm, scale_shift or add, or network.architecture: edm2',
    ),
    (
        {"network.architecture": "ddpmpp", "network.width": 36, "network.channels_per_head": 72},
        "network.width = 36: DDPM++ would divide 144 channels into 32 groups; use a multiple of 32",
    ),
    (
        {**DIT, "network.multipliers": [1, 2]},
        "network.multipliers = [1, 2]: DiT has one width alone; write [1]",
    ),
    ({**DIT, "network.attention": [4]}, "network.attention = [4]: all blocks of DiT have attention; write []"),
    (
        {**DIT, "network.width": 18, "network.channels_per_head": 6},
        "network.width = 18: the positions need as many sines as cosines, of rows and of columns; use a multiple of 4",
    ),
    (
        {**DIT, "network.channels_per_head": 24},
        "network.channels_per_head = 24: does not divide the 32 channels of network.width; use a divisor of 32",
    ),
    (
        {**DIT, "network.patch": 3},
        "data.resolution = 8: not divisible by 3, as network.patch asks; use a multiple of 3 or a smaller patch",
    ),
    (
        {**DIT, **LATENTS, "data.resolution": 24},
        "data.resolution = 24: not divisible by 16, as network.patch asks of the autoencoder's latents, 8 times smaller; use a multiple of 16 or a smaller patch",
    ),
    (
        {**DIT, "network.modulation": "gain"},
        'network.modulation = "gain": the architecture dit has no such modulation; use double_norm or scale_shift, or network.architecture: edm2',
    ),
    ({"network.patch": 2}, "network.patch = 2: a U-Net takes pixels; write 1, or network.architecture: dit"),
    (
        {"network.architecture": "ddpmpp", "network.patch": 2},
        "network.patch = 2: a U-Net takes pixels; write 1, or network.architecture: dit",
    ),
    (
        {**LATENTS, "data.resolution": 100},
        "data.resolution = 100: not divisible by 16, as 2 network.multipliers ask of the autoencoder's latents, 8 times smaller; use a multiple of 16 or fewer multipliers",
    ),
    (
        {**LATENTS, "data.resolution": 4, "network.multipliers": [1]},
        "data.resolution = 4: not divisible by 8, as 1 network.multipliers ask of the autoencoder's latents, 8 times smaller; use a multiple of 8",
    ),
    (
        {**LATENTS, "data.resolution": 128},
        "network.attention = 4: not a resolution of the U-Net; choose from 16, 8",
    ),
    (
        methods(scd="sct", sct="scd"),
        'student.methods.scd = "sct": starts from itself (scd -> sct -> scd); use teacher (and 1 more)',
    ),
    (methods(sct="sct"), 'student.methods.sct = "sct": not a model that sct can start from; use teacher'),
    (
        methods(scd="teacher", sct="icm"),
        'student.methods.sct = "icm": not a model that sct can start from; use teacher or scd',
    ),
    (methods(sct="scd"), 'student.methods.sct = "scd": scd is not switched on; use teacher, or switch it on'),
    (
        {**methods(multistep="teacher"), "student.multistep": None},
        "student.multistep: student.methods names multistep, but its block is missing; add it with images and dropout, or take it out of student.methods",
    ),
    (
        {**methods(scd="multistep", multistep="teacher"), "student.multistep": MULTISTEP},
        'student.methods.scd = "multistep": the network of multistep takes a second time, that of scd does not; start from teacher',
    ),
    (
        {
            **methods(scd="teacher", scd_vsd="scd"),
            "student.scd_vsd": VSD,
            "teacher.label_dropout": 0.1,
            "student.scd.guidance": [1.0, 2.0],
        },
        'student.methods.scd_vsd = "scd": the network of scd takes guidance, that of scd_vsd does not; add student.scd_vsd.guidance, or start from teacher',
    ),
    (
        {**methods(vsd="teacher"), "student.vsd": {**VSD, "fake_score": {**VSD["fake_score"], "updates": 1025}}},
        "student.vsd.fake_score.updates = 1025: more than the 1024 steps of the training (images / batch), so the student would never learn; use less",
    ),
    (
        {**methods(ect="teacher"), "student.ect": {**ECT, "precision": "bf16"}},
        'student.ect.precision = "bf16": differences between neighbouring noise levels are lost in its rounding; write precision: fp32 in student.ect',
    ),
    (
        {**methods(ect="teacher"), "student.ect": {**ECT, "doubling": "7Ki"}},
        'student.ect.doubling = "7Ki": after 19 stages the differences are 1/2^19 of the noise level, lost in rounding; use more images, or a smaller q',
    ),
]


@pytest.mark.parametrize(("values", "message"), IMPOSSIBLE)
def test_an_impossible_combination_is_told_with_key_value_and_remedy(values, message):
    with pytest.raises(UserError) as caught:
        validate(with_values(values), "params.yaml")
    assert str(caught.value) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("{root}", "the pipeline writes files there"),
        ("{root}/..", "the pipeline writes files there"),
        ("{root}/data/shards/", "the pipeline writes files there"),
        ("../p/results", "the pipeline writes files there"),
        ("{root}/.git", "that is a part of the project itself"),
        ("../p/./stages", "that is a part of the project itself"),
        ("{root}/data/raw", None),
        ("../images", None),
        ("/srv/tests", None),
    ],
)
def test_detours_into_the_project_are_refused_where_its_folder_is_known(tmp_path, capsys, path, problem):
    root = tmp_path / "p"
    path = path.format(root=root)
    edit(make_project(root).parent, "params.yaml", "data.path", path)
    code = cli.main(["params", "check", str(root / "params.yaml")])
    if problem is None:
        assert code == 0 and Project.open(root).params.data.path == path
        return
    error = capsys.readouterr().err
    assert code == 1 and error.startswith(f'scm: error: {root}/params.yaml: data.path = "')
    assert f": {problem}" in error and error.count("\n") == 1
    with pytest.raises(UserError, match=problem):
        Project.open(root)


@pytest.mark.parametrize(("multipliers", "blocks"), [([1], 1), ([1, 2], 1), ([2, 1, 3], 2), ([3, 4], 1)])
def test_group_norms_are_refused_exactly_where_torch_refuses_them(multipliers, blocks):
    """Builds every network: what the rule lets through must exist, what it refuses must not."""
    allowed = {}
    possible = {}
    for width in (2, 4, 6, 8, 10, 16, 20, 28, 36, 48, 52, 64, 68, 100, 132):
        shape = {"width": width, "multipliers": multipliers, "blocks": blocks, "attention": [], "channels_per_head": 1}
        values = {f"network.{key}": value for key, value in {**shape, "architecture": "ddpmpp"}.items()}
        try:
            validate(with_values(values), "params.yaml")
        except UserError as error:
            assert f"params.yaml: network.width = {width}: DDPM++ would divide " in str(error)
            allowed[width] = False
        else:
            allowed[width] = True
        try:
            with torch.device("meta"):
                Model(NetworkSettings(8, 1, 0, "ddpmpp", **shape))
        except (ValueError, ZeroDivisionError):
            possible[width] = False
        else:
            possible[width] = True
    assert allowed == possible and set(possible.values()) == {True, False}


def test_a_halflife_of_a_fifth_of_the_shortest_run_that_is_on_is_allowed():
    values = {**methods(sct="teacher"), "ema.halflife": 20000}
    budgets = {"student.sct.images": 100000, "student.scd.images": 99999}
    assert validate(with_values({**values, **budgets}), "params.yaml").ema.halflife == 20000


@pytest.mark.parametrize("use", [{"select.guidance.teacher": [1.0, 1.5]}, {"student.scd.guidance": [1.0, 2.0]}])
def test_a_guide_stands_in_for_label_dropout(use):
    validate(with_values({"select.guide": "early.safetensors", **use}), "params.yaml")


def test_guidance_scales_may_wait_for_a_student_that_is_switched_off():
    values = {**methods(sct="teacher"), **GUIDED, "select.guidance.student": [1.0, 2.5]}
    assert validate(with_values(values), "params.yaml").select.guidance.student == (1.0, 2.5)


@pytest.mark.parametrize("profiles", [[0.05, 0.0501], [0.0504, 0.0506], [0.0005, 0.0004]])
def test_profiles_are_refused_exactly_where_their_snapshots_would_share_a_file(profiles):
    shared = len({snapshot_file(1, sigma_rel) for sigma_rel in profiles}) == 1
    try:
        validate(with_values({"ema.profiles": profiles}), "params.yaml")
    except UserError as error:
        assert shared and "params.yaml: ema.profiles = " in str(error)
    else:
        assert not shared


def test_methods_that_are_off_may_stand_by():
    """Their settings are read, and a method that is off is not held against the others."""
    vsd = {key: VSD[key] for key in ("vsd", "fake_score")}
    values = {
        **methods(sct="teacher"),
        "student.scd.guidance": [1.5, 1.5],
        "student.multistep": {"images": "8Mi", "dropout": 0.1, "segments": 4, "guidance": [1.0, 2.0]},
        "student.scd_vsd": {"images": "1Ki", "dropout": 0.0, **vsd},
        "student.vsd": None,
    }
    params = validate(with_values(values), "params.yaml")
    assert params.student.declared == ("multistep", "scd", "scd_vsd", "sct")
    multistep, scd_vsd = params.student.method("multistep"), params.student.method("scd_vsd")
    assert (multistep.segments, multistep.guidance, multistep.p_mean) == (4, (1.0, 2.0), -1.0)
    assert scd_vsd.guidance is None
    assert (scd_vsd.own.vsd.p_std, scd_vsd.own.fake_score.lr_max, scd_vsd.images) == (2.0, 1e-4, 1024)
    assert dump(params) == with_values(values)


def test_the_shape_follows_from_the_codec():
    assert validate(with_values({}), "").shape == [1, 8, 8]
    values = {**LATENTS, "data.resolution": 512, "network.attention": [32]}
    assert validate(with_values(values), "").shape == [4, 64, 64]


def test_an_architecture_that_cannot_be_told_of_augmentation_refuses_it(monkeypatch):
    assert validate(with_values({"teacher.augment": 0.12}), "params.yaml").teacher.augment == 0.12
    monkeypatch.delattr(edm2, "AUGMENTED")
    told = "teacher.augment = 0.12: the architecture edm2 cannot be told of augmentation; write 0.0, or another network.architecture"
    with pytest.raises(UserError, match=re.escape(told)):
        validate(with_values({"teacher.augment": 0.12}), "params.yaml")


def test_a_warm_up_may_last_as_long_as_the_training():
    whole = {"images": "128Ki", "dropout": 0.0, "lr": {**CONSTANT, "warmup": "128Ki"}}
    params = validate(with_values({"student.scd": {**whole, "tangent_warmup": "128Ki"}}), "params.yaml")
    assert params.student.method("scd").tangent_warmup == params.student.method("scd").images
    untouched = {**methods(ect="teacher"), "student.ect": {**ECT, **whole, "tangent_warmup": "256Ki"}}
    assert validate(with_values(untouched), "params.yaml").student.method("ect").tangent_warmup == 256 << 10


def test_one_method_is_enough():
    assert validate(with_values(methods(sct="teacher")), "params.yaml").student.methods == {"sct": "teacher"}


def test_every_method_can_be_switched_on_and_guided_where_it_distils():
    """One after the other along a chain too: what a start takes, its follower takes as well."""
    chain = methods(scd="teacher", sct="teacher", discrete="scd", multistep="discrete", scd_vsd="scd", vsd="scd_vsd")
    blocks = {"discrete": {**DISCRETE, "tangent_warmup": 0}, "multistep": MULTISTEP}
    blocks |= {"scd_vsd": VSD, "vsd": VSD, "scd": {"images": "128Ki", "dropout": 0.0}}
    guided = {f"student.{name}": {**block, "guidance": [1.0, 2.0]} for name, block in blocks.items()}
    values = {
        **chain,
        **guided,
        "teacher.label_dropout": 0.1,
        "select.guidance": {"teacher": [1.0, 1.5], "student": [1.5]},
    }
    params = validate(with_values(values), "params.yaml")
    assert params.student.methods == chain["student.methods"]
    assert dump(params) == with_values(values)
    assert all(params.student.method(name).guidance == (1.0, 2.0) for name in blocks)
    discrete = params.student.method("discrete")
    assert (discrete.own.points, discrete.segments, discrete.tangent) == (64, None, "normalized")


def test_the_latest_update_at_which_a_student_still_learns():
    values = {**methods(vsd="teacher"), "student.vsd": {**VSD, "fake_score": {**FAKE_SCORE, "updates": 1024}}}
    assert validate(with_values(values), "params.yaml").student.method("vsd").own.fake_score.updates == 1024


def test_a_lineage_says_that_there_is_no_guidance():
    """A model trained without guidance differs from one that params.yaml guides by a value, not by a missing key."""
    lineage = validate(with_values({}), "params.yaml").student.lineage("scd")
    assert lineage["guidance"] is None and lineage["start"] == "teacher" and "segments" not in lineage
