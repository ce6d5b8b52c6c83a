"""`scm preset list`: what stands in it, and how it looks."""

from pathlib import Path

import pytest
import torch

from scm.build import models as build
from scm.errors import UserError
from scm.presets import apply, table
from tests.support import projects as shipped

ROOT = Path(__file__).parents[2]
LISTED = {entry.name: entry for entry in table.entries(ROOT)}


@pytest.fixture
def project(tmp_path):
    shipped.make_project(tmp_path)
    return tmp_path


def write_preset(project: Path, name: str, text: str) -> None:
    (project / "pipelines" / "presets" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_ones_own_come_first_then_the_papers_by_data_and_size():
    names = ["cifar3", *(f"digits{kind}" for kind in ("", "-dit", "-methods", "-plain", "-short", "-smoke")), "folder"]
    names += ["imagenet512-dit-xl", "photos-latent"]
    names += ["cifar10", "cifar10-ect"]
    names += [f"imagenet64-{size}" for size in ("s", "m", "l", "xl")]
    assert list(LISTED) == [*names, *(f"imagenet512-{size}" for size in ("s", "m", "l", "xl", "xxl"))]


def test_figures_as_the_paper_prints_them():
    """Copied from tables 3, 6, 7 and 8 once more, so that a wrong column or key is seen."""
    assert LISTED["cifar10"].methods == {
        "teacher": {"nfe": 35, "fid": 2.15},
        "scd": {"fid_1step": 3.66, "fid_2step": 2.52},
        "sct": {"fid_1step": 2.85, "fid_2step": 2.06},
    }
    assert LISTED["cifar10-ect"].methods == {"sct": {"fid_1step": 3.09}}
    assert LISTED["imagenet64-xl"].methods["sct"] == {"fid_1step": 2.04, "fid_2step": 1.48}
    assert LISTED["imagenet64-xl"].methods["teacher"] == {"nfe": 63, "fid": 1.38}
    figures = LISTED["imagenet512-xxl"].methods
    assert list(figures) == ["teacher", "scd", "sct", "multistep", "scd_vsd", "vsd"]
    assert figures["teacher"] == {"nfe": 126, "fid": 1.73, "fdd": 35.93}
    assert figures["scd"] == {"fid_1step": 2.28, "fid_2step": 1.88, "fdd_1step": 67.80, "fdd_2step": 44.97}
    assert figures["multistep"] == {"fid_2step": 2.16, "fdd_2step": 50.70}
    assert figures["vsd"] == {}
    assert LISTED["imagenet512-m"].methods["vsd"] == {"fid_1step": 3.02, "fdd_1step": 57.19}


def test_data_size_parameters_and_what_is_switched_on():
    entry = LISTED["imagenet512-l"]
    on = ("scd", "sct", "multistep", "scd_vsd", "vsd")
    assert (entry.data, entry.size, entry.on) == ("imagenet512", "L", on)
    assert entry.parameters == pytest.approx(777.6e6, rel=0.01)
    entry = LISTED["folder"]
    assert (entry.data, entry.size, entry.parameters, entry.on) == ("folder", "", None, ("scd", "sct"))
    assert entry.methods == {"scd": {}, "sct": {}} and entry.summary.startswith("Your own images, 32x32 RGB: ")


def test_multistep_figures_follow_the_segments(project):
    paper = "paper: {dataset: imagenet512, size: S, parameters: 1}\n"
    for segments in (3, 4):
        block = f"student: {{multistep: {{segments: {segments}}}}}"
        write_preset(project, f"multi-{segments}", f"# Multi.\nextends: imagenet512-s\n{paper}{block}\n")
    listed = {entry.name: entry for entry in table.entries(project)}
    assert listed["multi-3"].methods["multistep"] == {}
    assert listed["multi-4"].methods["multistep"] == {"nfe": 4, "fid": 2.78, "fdd": 72.01}


def test_the_lines(project):
    write_preset(project, "a-wide", f"# Wide.{' And long.' * 20}\nextends: imagenet512-s\nnetwork: {{width: 64}}\n")
    entries = {entry.name: entry for entry in table.entries(project)}
    chosen = [LISTED["digits"], entries["a-wide"], entries["cifar10"], entries["imagenet512-m"]]
    lines = table.table(chosen)
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[0].split() == ["preset", "data", "images", "network", "time", "methods", "what", "it", "is"]
    time = "about half an hour on 2 CPU cores"
    assert lines[1].startswith(f"digits  digits    8x8 grey     181k     {time}  scd *, sct *, ect *, kd *  ")
    assert lines[1].endswith("  scikit-learn's 1,797 handwritten digits, 8x8 pixels.")
    assert lines[2].startswith("a-wide  imagenet  512x512 RGB           not measured  ") and lines[3] == ""
    assert lines[2].endswith(f"  scd *, sct *, multistep *, scd_vsd *, vsd *  Wide.{' And long.' * 20}")
    header, first = lines[4], next(line for line in lines if line.startswith("imagenet512-m "))
    assert header.split()[:5] == ["preset", "data", "size", "parameters", "method"]
    assert first.split() == [
        "imagenet512-m", "imagenet512", "M", "497.8M", "teacher", "2.00", "@126", "43.33", "@126",
    ]  # fmt: skip
    assert first.endswith("@126") and len(first) == len(header)
    sct = lines[lines.index(first) + 2]
    assert sct.split() == ["sct", "*", "5.84", "5.53", "192.13", "160.66"]
    for title, figure in (("FID@1", "5.84"), ("FID@2", "5.53"), ("FDD@1", "192.13"), ("FDD@2", "160.66")):
        assert header.index(title) + len(title) == sct.index(figure) + len(figure)
    assert lines[lines.index(first) - 1] == "" and lines[-len(table.LEGEND) - 1] == ""


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_nothing_is_cut_at_any_width(width):
    own = [entry for entry in LISTED.values() if entry.parameters is None]
    lines = table.table(own, width)[: -len(table.LEGEND) - 1]
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for entry in own:
        for text in (entry.summary, entry.time, entry.images, entry.network, *entry.methods):
            assert not [word for word in text.split() if not any(word in shown for shown in words)], text
    if width < 100:
        start = lines.index("digits")
        assert lines[start + 1].startswith("  scikit-learn's") and " ".join(lines[start:]).count("methods: ") == 9
    else:
        assert lines[0].split()[:3] == ["preset", "data", "images"]


def test_times_that_were_measured_and_no_others():
    measured = {name: entry.time for name, entry in LISTED.items() if entry.time != table.NOT_MEASURED}
    assert measured == {
        "cifar3": "about two hours on one CPU core for teacher and sCD (docs/results.md); sCT adds to that",
        "digits": "about half an hour on 2 CPU cores",
        "digits-methods": "about 40 minutes on 2 CPU cores for the paper's six methods; the others have not been timed",
        "digits-plain": "about half an hour on 2 CPU cores",
        "digits-short": "about 5 minutes on 2 CPU cores",
        "digits-smoke": "one to two minutes on 2 CPU cores",
        "photos-latent": "about 45 minutes on 2 CPU cores for 4,317 photographs",
    }


@pytest.mark.parametrize("name", [name for name, entry in LISTED.items() if entry.parameters is None])
def test_the_headers_name_the_networks_parameters(name):
    params = apply.preview(ROOT / "params.yaml", ROOT, name)
    classes = params.evaluate.grid_classes if params.data.source != "imagenet" else 1000
    training = params.teacher.model_copy(update={"precision": "fp32"})
    with torch.device("meta"):
        model = build.new_model(build.network_settings(params.network, classes, params.shape), training, 0)
    unit = {"k": 1e3, "M": 1e6}[LISTED[name].network[-1]]
    named = float(LISTED[name].network[:-1]) * unit
    assert named == pytest.approx(sum(each.numel() for each in model.parameters()), rel=0.03)


@pytest.mark.parametrize(
    ("block", "missing"),
    [
        ('{"dataset": "imagenet256", "parameters": 1}', "imagenet256"),
        ('{"dataset": "imagenet64", "size": "XXL", "parameters": 1}', "XXL"),
        ('{"dataset": "imagenet64", "parameters": 1}', "size"),
        ('{"dataset": "imagenet512", "parameters": 1}', "size"),
        ('{"dataset": "cifar10", "comparison": "ect", "parameters": 1}', "ect"),
        ('{"dataset": "cifar10"}', "parameters"),
        ('{"parameters": 1}', "dataset"),
    ],
)
def test_a_paper_block_that_names_no_row_is_refused(project, block, missing):
    write_preset(project, "wrong", f"extends: digits\npaper: {block}\n")
    with pytest.raises(UserError) as caught:
        table.entries(project)
    expected = f"paper = {block}: '{missing}' is missing there or in pipelines/paper_tables.yaml; correct the block"
    assert str(caught.value) == f"{project / 'pipelines' / 'presets' / 'wrong.yaml'}: {expected}"
