"""Files of studies over params.yaml: relative values, rules, names of experiments, the shipped studies."""

import re
import shutil
from pathlib import Path

import pytest

from scm.base.yaml_files import parse_mapping
from scm.errors import UserError
from scm.params import validate
from scm.presets import apply
from scm.study import run, variants
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
FIGURE = "figure: {kind: progress, models: [scd]}\n"
HEAD = "# A study of tests.\ntitle: A title\n"
IMPOSSIBLE = {("cifar10", "fig7"): "there are no labels", ("cifar10-ect", "fig7"): "there are no labels"}
"""Presets and studies that cannot go together, and why."""


@pytest.fixture
def project(tmp_path):
    shipped.make_project(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def study(project: Path, text: str, figure: str = FIGURE) -> variants.Study:
    """The study of this file, given without its head."""
    (project / "pipelines" / "studies" / "mine.yaml").write_text(HEAD + text + figure, encoding="utf-8")
    return variants.read(project, "mine")


def current(project: Path) -> dict:
    return parse_mapping((project / "params.yaml").read_text(encoding="utf-8"), "params.yaml")


def test_a_variant_is_the_parameters_under_the_study_under_the_variant(project):
    made = study(
        project,
        "methods: {scd: teacher}\nparams: {student: {common: {p_std: 1.2}}}\n"
        "variants: {one: {}, two: {student: {common: {p_std: 2.2}}, teacher: {batch: 64}}}\n",
    )
    one, two = (variant.values for variant in made.variants)
    assert one["student"]["common"]["p_std"] == 1.2
    assert two["student"]["common"]["p_std"] == 2.2
    assert two["teacher"]["batch"] == 64
    assert one["student"]["methods"] == {"scd": "teacher"}
    assert one["evaluate"]["models"] == ["teacher", "scd"]
    assert one["teacher"] == current(project)["teacher"]
    assert [variant.own for variant in made.variants] == [{}, {"student.common.p_std": 2.2, "teacher.batch": 64}]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("x0.25", "32Ki"),  # of 128Ki
        ("x0.001", 131),
        ("x0.0000001", 1),
        ("=teacher.images", "320Ki"),
        ("=teacher.images x0.5", "160Ki"),
        ("=teacher.batch x3", 384),
        ("8Mi", "8Mi"),
    ],
)
def test_counts_may_be_relative(project, written, expected):
    schedule = "batch: 1, tangent_warmup: 0, lr: {warmup: 0, decay: constant, decay_from: 0}"
    short = f"params: {{ema: {{snapshots: 1}}, select: {{progress: 1}}, student: {{common: {{{schedule}}}}}}}\n"
    text = f"{short}variants: {{one: {{student: {{scd: {{images: {written}}}}}}}}}\n"
    (variant,) = study(project, text).variants
    assert variant.values["student"]["scd"] == {**current(project)["student"]["scd"], "images": expected}
    assert variant.own == {"student.scd.images": expected}


def test_other_values_may_be_relative(project):
    (variant,) = study(
        project,
        """variants:
  one:
    teacher: {lr: {max: x0.5, warmup: =student.common.lr.warmup}}
    select: {t_mid: [=select.t_mid.1, 1.3]}
    network: {modulation: {by: network.architecture, edm2: gain, ddpmpp: scale_shift}}
""",
    ).variants
    got = variant.values
    assert got["teacher"]["lr"] == {"max": 5e-3, "warmup": "5Ki", "decay": "cosine", "decay_from": "160Ki"}
    assert got["select"]["t_mid"] == [0.8, 1.3]
    assert got["network"]["modulation"] == "gain"


def test_a_mapping_that_is_referred_to_replaces_the_one_that_is_there(project):
    own = "{name: radam, betas: [0.9, 0.99], eps: 1.0e-8}"
    blocks = f"params: {{student: {{scd: {{optimizer: {own}}}, sct: {{optimizer: =student.scd.optimizer}}}}}}\n"
    with pytest.raises(UserError, match=r"params.yaml has no student.scd.optimizer"):
        study(project, blocks + "variants: {one: {}}\n")
    shared = f"params: {{student: {{scd: {{optimizer: {own}}}}}}}\n"
    text = "variants: {one: {student: {sct: {optimizer: =student.scd.optimizer}}}}\n"
    student = study(project, shared + text).variants[0].values["student"]
    assert student["sct"]["optimizer"] == student["scd"]["optimizer"]


def test_the_parts_of_a_transformer_are_studied_as_those_of_a_u_net(project):
    apply.apply(project / "params.yaml", project, "digits-dit")
    networks = {variant.name: variant.values["network"] for variant in variants.read(project, "parts").variants}
    assert {name: network["modulation"] for name, network in networks.items()} == {
        "all": "double_norm", "log-sigma-time": "double_norm", "fourier-embedding": "double_norm",
        "no-double-norm": "scale_shift",
    }  # fmt: skip


def test_a_study_of_ones_own_needs_no_paper_and_no_header(project):
    mine = project / "pipelines" / "studies" / "mine.yaml"
    mine.write_text("title: My own\nvariants: {one: {}}\n" + FIGURE, encoding="utf-8")
    assert variants.read(project, "mine").paper is None
    assert ["mine", "My", "own"] in [line.split() for line in run.listing(project)]


def test_a_block_is_supplied_only_where_there_is_none(project):
    blocks = (
        "blocks: {discrete: {images: =student.scd.images, dropout: 0.0, points: 9}, scd: {images: 1, dropout: 0.1}}\n"
    )
    made = study(project, blocks + "methods: {scd: teacher, discrete: teacher}\nvariants: {one: {}}\n")
    student = made.variants[0].values["student"]
    assert student["discrete"] == {"images": "128Ki", "dropout": 0.0, "points": 9}
    assert student["scd"] == current(project)["student"]["scd"]


def test_the_name_of_an_experiment_follows_from_all_that_results_follow_from(project):
    text = "variants: {one: {}, two: {seed: 1}}\n"
    one, two = (variant.experiment for variant in study(project, text).variants)
    assert one.startswith("mine-one-") and two.startswith("mine-two-") and one[-8:] != two[-8:]
    params_file = project / "params.yaml"
    params_file.write_text(params_file.read_text().replace("device: auto", "device: cpu"), encoding="utf-8")
    assert study(project, text).variants[0].experiment == one
    params_file.write_text(params_file.read_text().replace("p_mean: -0.8", "p_mean: -0.9"), encoding="utf-8")
    assert study(project, text).variants[0].experiment != one


def test_an_experiment_follows_from_the_images(project):
    text = "variants: {one: {}, two: {data: {path: other.zip}}}\n"
    image = project / "data" / "raw" / "image.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"one")
    one, two = study(project, text).variants
    image.write_bytes(b"two")
    changed, same = study(project, text).variants
    assert changed.experiment != one.experiment and same.experiment == two.experiment
    (project / "other.zip").write_bytes(b"zip")
    assert study(project, text).variants[1].experiment != two.experiment
    image.write_bytes(b"one")
    assert study(project, text).variants[0].experiment == one.experiment


def test_an_experiment_follows_from_a_teacher_that_was_imported(project):
    lock = "stages: {train_teacher: {outs: [{path: models/teacher/snapshots, md5: HASH.dir}]}}\n"

    def experiment(frozen: str, md5: str) -> str:
        (project / "dvc.yaml").write_text(f"stages: {{train_teacher: {{{frozen}cmd: train}}}}\n")
        (project / "dvc.lock").write_text(lock.replace("HASH", md5))
        return study(project, "variants: {one: {}}\n").variants[0].experiment

    assert experiment("frozen: true, ", "a") != experiment("frozen: true, ", "b")
    assert experiment("", "a") == experiment("", "b") != experiment("frozen: true, ", "a")
    (project / "dvc.yaml").write_text("stages: {train_teacher: {frozen: true, cmd: train}}\n")
    (project / "dvc.lock").unlink()
    with pytest.raises(UserError, match=r"dvc.lock is missing: import the teacher again"):
        study(project, "variants: {one: {}}\n")


def test_parameters_are_written_plainly(project):
    made = study(
        project, "methods: {vsd: teacher, scd: teacher}\nblocks: {vsd: {images: 64Ki, dropout: 0.0, lr: {max: 1.0e-11, "
        "warmup: 0, decay: constant, decay_from: 0}, vsd: {weight: 1.0, p_mean: 0.4, p_std: 2.0}, fake_score: {lr_max: "
        "1.0e-4, dropout: 0.0, p_mean: -0.8, p_std: 1.6, updates: 1}}}\nvariants: {one: {mlflow: {enabled: false}}}\n"
    )  # fmt: skip
    values = made.variants[0].values
    again = parse_mapping(variants.write(project, values), "params.yaml")
    assert again == values
    assert list(again["student"]["methods"]) == ["vsd", "scd"]


def test_a_variants_file_keeps_the_comments_and_the_layout(project):
    before = (project / "params.yaml").read_text(encoding="utf-8").splitlines()
    written = variants.write(project, study(project, "variants: {one: {seed: 3}}\n").variants[0].values).splitlines()
    changed = [line for line in written if line not in before]
    assert len(written) == len(before) and changed[0].startswith("seed: 3 ")
    assert all(line.startswith("  models: ") for line in changed[1:])


def test_anchors_of_the_parameters_do_not_tie_values_together(project):
    params_file = project / "params.yaml"
    text = params_file.read_text(encoding="utf-8")
    block = "{images: 128Ki, dropout: 0.0, optimizer: {name: adam, betas: [0.9, 0.99], eps: 1.0e-11}}"
    tied = re.sub(r"  scd: \{.*\}", f"  scd: &scd {block}", text)
    params_file.write_text(re.sub(r"  sct: \{.*\}", "  sct: *scd", tied), encoding="utf-8")
    made = study(project, "variants: {one: {student: {sct: {images: 96Ki}}}, two: {}}\n")
    written = variants.write(project, made.variants[0].values)
    scd, sct = (parse_mapping(written, "params.yaml")["student"][method] for method in ("scd", "sct"))
    assert (scd["images"], sct["images"]) == ("128Ki", "96Ki")
    assert scd["optimizer"]["betas"] == sct["optimizer"]["betas"] == [0.9, 0.99]
    assert not re.search(r"[&*]\w", variants.write(project, made.variants[1].values))


@pytest.mark.parametrize(
    ("text", "figure", "message"),
    [
        ("variants: {one: {nonsense: 1}}\n", FIGURE, "variants.one over params.yaml: nonsense = 1: unknown key"),
        ("variants: {one: {teacher: {batch: 0}}}\n", FIGURE, "variants.one over params.yaml: teacher.batch = 0"),
        ("methods: {vsd: teacher}\nvariants: {one: {}}\n", FIGURE, "student.vsd: student.methods names vsd"),
        ("variants: {one: {teacher: {lr: {decay: x0.5}}}}\n", FIGURE, '"cosine" cannot be multiplied'),
        ("variants: {one: {teacher: {batch: =teacher.bach}}}\n", FIGURE, "params.yaml has no teacher.bach"),
        ("variants: {one: {network: {modulation: {by: network.architecture, x: y}}}}\n", FIGURE, 'network.arch'),
        ("variants: {'a b': {}}\n", FIGURE, "the variant 'a b' must be letters"),
        ("variants: {}\n", FIGURE, "variants = {}"),
        ("methods: {}\nvariants: {one: {}}\n", FIGURE, "methods = {}"),
        ("params: {student: null}\nvariants: {one: {}}\n", FIGURE, "student = null: must be a mapping"),
        ("params: {student: 3}\nvariants: {one: {}}\n", FIGURE, "student = 3: must be a mapping"),
        ("params: {evaluate: {models: [scd]}}\nvariants: {one: {}}\n", FIGURE, "evaluate.models = [\"scd\"]: it"),
        ("variants: {one: {student: 3}}\n", FIGURE, "variants.one: student = 3: must be a mapping"),
        ("variants: {one: {student: {methods: null}}}\n", FIGURE, "variants.one: student.methods = null: must"),
        ("variants: {one: {evaluate: 3}}\n", FIGURE, "variants.one: evaluate = 3: must be a mapping"),
        ("variants: {one: {evaluate: {models: [scd]}}}\n", FIGURE, "variants.one: evaluate.models"),
        ("vriants: {one: {}}\n", FIGURE, "variants"),
        ("methods: {nonsense: teacher}\nvariants: {one: {}}\n", FIGURE, "methods.nonsense"),
        ("variants: {one: {}}\n", "figure: {kind: pie, models: [scd]}\n", "figure.kind"),
        ("variants: {one: {}}\n", "figure: {kind: bars, models: [vsd]}\n", "no variant has this model"),
        ("variants: {one: {}}\n", "figure: {kind: versus, models: [scd], x: network.c_noise}\n", "not a number"),
        ("variants: {one: {}}\n", "figure: {kind: versus, models: [scd]}\n", "not a number"),
        (
            "variants: {one: {}}\n",
            "figure: {kind: versus, models: [scd], x: seed, reference: {variant: two, model: scd}}\n",
            "no variant two",
        ),
    ],
)  # fmt: skip
def test_faults_are_told_in_one_line(project, text, figure, message):
    with pytest.raises(UserError) as caught:
        study(project, text, figure)
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_study_is_named_with_the_closest(project):
    with pytest.raises(UserError, match=r"no study fig5 in .*did you mean fig5\w\?"):
        variants.read(project, "fig5")


@pytest.mark.parametrize("preset", apply.names(ROOT))
def test_every_shipped_study_works_with_every_preset(project, preset):
    """Reading checks the parameters of each variant, writing that they read back as they were."""
    apply.apply(project / "params.yaml", project, preset)
    read = {}
    for name in variants.names(project):
        reason = IMPOSSIBLE.get((preset, name))
        if reason:
            with pytest.raises(UserError, match=reason):
                variants.read(project, name)
        else:
            read[name] = variants.read(project, name)
    assert variants.write(project, read["parts"].variants[-1].values)


def test_a_block_that_is_meant_for_another_start_is_not_taken(tmp_path):
    """The shipped digits train sCD from KD's student: for few images and without a warm-up."""
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    apply.apply(tmp_path / "params.yaml", ROOT, "digits")
    for name in set(variants.names(ROOT)) - {"seeds"}:
        with pytest.raises(UserError, match=r"from kd, and this study from teacher; run|begin after the 32Ki images"):
            variants.read(tmp_path, name)
    assert variants.read(tmp_path, "seeds").figure.models == ["teacher", "kd", "scd", "sct", "ect"]
    for preset in ("digits-short", "digits-plain"):
        apply.apply(tmp_path / "params.yaml", ROOT, preset)
        assert all(variants.read(tmp_path, name).variants for name in variants.names(ROOT))


def test_a_mean_is_over_a_parameter_of_all_variants(project):
    path = project / "pipelines/studies/seeds.yaml"
    path.write_text(path.read_text().replace("seed-2: {seed: 2}", "seed-2: {select: {refine: 0}}"))
    with pytest.raises(UserError) as caught:
        variants.read(project, "seeds")
    problem = "the variant seed-2 does not say it; name a parameter of all variants"
    assert str(caught.value) == f'{path}: figure.mean_over = "seed": {problem}'


def test_every_shipped_study_has_a_header():
    figures = {"fig4", "fig5a", "fig5b", "fig5c", "fig7"}
    names = figures | {"headline", "methods", "parts", "seeds", "start", "table3", "table6"}
    assert set(variants.names(ROOT)) == names
    for name in variants.names(ROOT):
        first, *rest = (ROOT / "pipelines" / "studies" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ") and variants.summary(ROOT, name) == first[2:]
        assert f"# Command: scm study {name}" in rest


def test_a_figure_without_models_shows_those_of_all_variants(project):
    change = {"student.methods": {"sct": "teacher"}, "evaluate.models": ["teacher", "sct"], "student.scd": None}
    apply.set_values(project / "params.yaml", change)
    assert variants.read(project, "seeds").figure.models == ["teacher", "sct"]


def test_scd_vsd_starts_from_the_teacher_or_from_scd(project):
    """The paper's start warms the tangent up; a finished sCD has done so."""
    apply.apply(project / "params.yaml", project, "digits")
    teacher, scd = (validate(each.values, each.name).student for each in variants.read(project, "start").variants)
    assert teacher.methods == {"scd": "teacher", "scd_vsd": "teacher"} and scd.methods["scd_vsd"] == "scd"
    assert teacher.method("scd_vsd").tangent_warmup == teacher.common.tangent_warmup > 0
    assert scd.method("scd_vsd").values() == {**teacher.method("scd_vsd").values(), "tangent_warmup": 0}


def test_guidance_scales_train_nothing_twice(project):
    """In fig7 only what select_ema and evaluate track differs, and the choice that selection makes is fixed."""
    apply.apply(project / "params.yaml", project, "digits")
    first, *others = (variant.values for variant in variants.read(project, "fig7").variants)
    for other in others:
        assert {**other, "select": None} == {**first, "select": None}
        assert other["select"] == {**first["select"], "guidance": other["select"]["guidance"]}
    for select in (first["select"], *(other["select"] for other in others)):
        given = *select["sigma_rel"].values(), *select["guidance"].values(), select["t_mid"]
        assert [len(candidates) for candidates in given] == [1] * 5 and select["coarse"] is None
    stages = parse_mapping((ROOT / "dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")["stages"]
    training = stages["train_student"]["do"]
    assert not any("select" in entry or "sampling.json" in entry for entry in [*training["params"], *training["deps"]])
    written = "models/${item.model}/sampling.json"
    assert written in stages["select_ema"]["outs"] and written in stages["evaluate"]["deps"]


def test_discrete_time_is_compared_in_full_precision_and_apart_in_half(project):
    """Neighbours on a fine grid differ by less than half precision can tell."""
    apply.apply(project / "params.yaml", project, "cifar3")
    assert current(project)["student"]["common"]["precision"] == "auto"
    for variant in variants.read(project, "fig5c").variants:
        params = validate(variant.values, variant.name)
        asked = "bf16" if variant.name.endswith("-bf16") else "fp32"
        assert [params.student.method(model).precision for model in params.student.methods] == [asked]


def test_a_budget_is_read_from_one_run_whose_learning_rate_stays(project):
    """ECT has sCT's budget, and both are measured at quarters of it."""
    (variant,) = variants.read(project, "table3").variants
    params = validate(variant.values, variant.name)
    sct, ect = (params.student.method(name) for name in ("sct", "ect"))
    assert sct.images == ect.images == 8 * ect.own.doubling and sct.lr.decay == ect.lr.decay == "constant"
    assert params.select.progress == 4
