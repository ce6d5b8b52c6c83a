"""Files of studies over params.yaml: relative values, rules, names of experiments, the shipped studies."""

from pathlib import Path

import pytest
import shipped

from scm import presets, studies
from scm.errors import UserError
from scm.params import validate
from scm.yaml_files import parse_mapping, read_text

ROOT = Path(__file__).parents[1]
FIGURE = "figure: {kind: progress, models: [scd]}\n"
HEAD = "# A study of tests.\ntitle: A title\npaper: something.\n"
IMPOSSIBLE = {("cifar10", "fig7"): "there are no labels", ("cifar10-ect", "fig7"): "there are no labels"}
"""Presets and studies that cannot go together, and why."""


@pytest.fixture
def project(tmp_path):
    shipped.make_project(tmp_path)
    return tmp_path


def study(project: Path, text: str, figure: str = FIGURE) -> studies.Study:
    """The study of this file, given without its head."""
    (project / "pipelines" / "studies" / "mine.yaml").write_text(HEAD + text + figure, encoding="utf-8")
    return studies.read(project, "mine")


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
    base = current(project)
    got = studies._laid_over(base, {"student": {"scd": {"images": written}}}, base)
    assert got["student"]["scd"]["images"] == expected
    assert base == current(project)


def test_other_values_may_be_relative(project):
    base = current(project)
    overlay = {
        "teacher": {"lr": {"max": "x0.5", "warmup": "=student.common.lr.warmup"}, "optimizer": "=teacher.optimizer"},
        "select": {"t_mid": ["=select.t_mid.1", 1.3]},
        "network": {"modulation": {"by": "network.architecture", "edm2": "gain", "ddpmpp": "scale_shift"}},
    }
    got = studies._laid_over(base, overlay, base)
    assert got["teacher"]["lr"] == {"max": 5e-3, "warmup": "5Ki", "decay": "cosine", "decay_from": "160Ki"}
    assert got["teacher"]["optimizer"] == base["teacher"]["optimizer"]
    assert got["select"]["t_mid"] == [0.8, 1.3]
    assert got["network"]["modulation"] == "gain"


def test_a_block_is_supplied_only_where_there_is_none(project):
    blocks = (
        "blocks: {discrete: {images: =student.scd.images, dropout: 0.0, points: 9}, scd: {images: 1, dropout: 0.1}}\n"
    )
    made = study(project, blocks + "methods: {scd: teacher, discrete: scd}\nvariants: {one: {}}\n")
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


def test_parameters_are_written_with_their_comments(project):
    text = (project / "params.yaml").read_text(encoding="utf-8")
    made = study(
        project, "methods: {vsd: teacher, scd: teacher}\nblocks: {vsd: {images: 64Ki, dropout: 0.0, lr: {max: 1.0e-11, "
        "warmup: 0, decay: constant, decay_from: 0}, vsd: {weight: 1.0, p_mean: 0.4, p_std: 2.0}, fake_score: {lr_max: "
        "1.0e-4, dropout: 0.0, p_mean: -0.8, p_std: 1.6, updates: 1}}}\nvariants: {one: {mlflow: {enabled: false}}}\n"
    )  # fmt: skip
    values = made.variants[0].values
    written = studies.write(text, "params.yaml", values)
    again = parse_mapping(written, "params.yaml")
    assert again == values
    assert list(again["student"]["methods"]) == ["vsd", "scd"]
    kept = [line for line in text.splitlines() if "#" in line and line in written.splitlines()]
    assert len(kept) > 0.8 * sum("#" in line for line in text.splitlines())


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
        studies.read(project, "fig5")


@pytest.mark.parametrize("preset", presets.names(ROOT))
def test_every_shipped_study_works_with_every_preset(project, preset):
    presets.apply(project / "params.yaml", project, preset)
    text = read_text(project / "params.yaml", "")
    for name in studies.names(project):
        reason = IMPOSSIBLE.get((preset, name))
        if reason:
            with pytest.raises(UserError, match=reason):
                studies.read(project, name)
            continue
        last = studies.read(project, name).variants[-1].values
        written = parse_mapping(studies.write(text, "params.yaml", last), "params.yaml")
        assert written == last
        validate(written, name)


def test_every_shipped_study_has_a_header():
    assert set(studies.names(ROOT)) == {"fig4", "fig5a", "fig5b", "fig5c", "fig7", "parts", "table3"}
    for name in studies.names(ROOT):
        first, *rest = (ROOT / "pipelines" / "studies" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ") and studies.summary(ROOT, name) == first[2:]
        assert f"# Command: scm study {name}" in rest


def test_guidance_scales_train_nothing_twice(project):
    """In fig7 only what select_ema and evaluate track differs, and the choice that selection makes is fixed."""
    presets.apply(project / "params.yaml", project, "digits")
    first, *others = (variant.values for variant in studies.read(project, "fig7").variants)
    for other in others:
        assert {**other, "sampler": None} == {**first, "sampler": None}
        assert other["sampler"] == {**first["sampler"], "guidance": other["sampler"]["guidance"]}
    assert [len(value) for value in (*first["select"]["sigma_rel"].values(), first["select"]["t_mid"])] == [1, 1, 1]
