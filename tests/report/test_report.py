"""scm.report: the page says what the files say, needs nothing else, and names what is missing."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scm.charts.axes import IMAGES, Line, image_count
from scm.charts.inline import Chart, svg
from scm.errors import UserError
from scm.report import page as report_page
from scm.report.curves import by_time_chart, selection_lines
from scm.report.findings import collect
from scm.report.paper import paper_charts
from scm.report.wording import duration, number
from stages.report import build
from tests.support.fake_results import fake_project, write_fake_results


def test_the_stage_report_imports_no_torch():
    code = "import sys, stages.report; print({'torch', 'mlflow', 'dvc'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    """Charts drawn so far: most pages in this file show the same ones, and nearly all time goes into drawing."""
    return {}


@pytest.fixture
def root(tmp_path: Path, drawn: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    def once(chart: Chart) -> str:
        key = repr(chart)
        if key not in drawn:
            drawn[key] = svg(chart)
        return drawn[key]

    monkeypatch.setattr(report_page, "svg", once)
    return write_fake_results(tmp_path, rows=6)


class Tags(HTMLParser):
    """Counts tags, collects what they refer to, and sees that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html(root: Path) -> str:
    return (root / "results/report.html").read_text()


def metrics(root: Path, model: str) -> dict[str, float]:
    return json.loads((root / f"results/metrics/evaluate-{model}.json").read_text())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_table_holds_the_figures(root: Path) -> None:
    change(root / "results/metrics/evaluate-teacher.json", **{"fd@35": 4.0})
    change(root / "results/metrics/evaluate-scd.json", **{"fd@2": 5.0, "accuracy@2": None})
    build(fake_project(root))
    page = html(root)
    row = re.search(r'<tr class="best">(.*?)</tr>', page)
    assert row is not None
    assert re.findall(r"<td[^>]*>([^<]*)", row.group(1)) == [
        *("sCD", "consistency", "2", "5.00", "–", "1.25", "0.0531", "0.183", "0.944", "0.917", "–")
    ]
    assert page.count("<tr><td>Teacher</td>") == 2
    head = re.findall(r"<th(?: [^>]*)?>([^<]*)", page[: page.index("</thead>")])
    assert head[3:7] == ["FD", "FD∞", "× teacher", "KID"] and len(head) == 11
    sentence = (
        "sCD in 2 evaluations comes close to its teacher in 35: FD 5.00, 1.25 × the teacher's; "
        "one range of seeds, so luck is unknown."
    )
    assert f'<span class="level good">Good</span>{sentence.replace(chr(39), "&#39;")}</h1>' in page
    floor = ("Training images", "drawn at random", "–", "1.42", "0", "–", "0", *["–"] * 4)
    assert re.findall(r"<td[^>]*>([^<]*)", page[page.index('<tr class="floor">') :])[:11] == list(floor)
    assert "98.6%" in page and "3f2a9c1e5b + changes" in page and "9b1c44d2e0f7" in page
    text = (root / "results/report.md").read_text()
    assert "| sCD | consistency | 2 | 5.00 | – | 1.25 | 0.0531 | 0.183 | 0.944 | 0.917 | – |" in text
    assert f"\n**Good.** {sentence}\n" in text
    advice = "One range of seeds was measured, and scm publish compares models by several."
    assert f"<b>{advice}</b>" in page and f"- **{advice}** Write evaluate.repeats: 3" in text
    assert "sCD&#39;s FD still fell by 14% in the last 50% of its training." in page
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 6 and all((root / "results" / source).is_file() for source in sources)


def test_the_distance_by_time_is_one_chart_of_all_models_above_the_floor(root: Path) -> None:
    caption, chart = by_time_chart(collect(fake_project(root)))
    assert caption == "FD of images brought back from t" and chart.logarithmic
    *models, floor = chart.lines
    assert [line.label for line in models] == ["Teacher", "sCD", "sCT"] and len({line.colour for line in models}) == 3
    assert all(tuple(line.x) == (0.3, 0.8, 1.45) for line in models) and models[1].y[-1] == pytest.approx(
        1.4 + 2.4 * 1.45
    )
    assert (floor.label, floor.dashed, tuple(floor.x), tuple(floor.y)) == ("Real images", True, (0.0, 1.45), (1.4, 1.4))
    build(fake_project(root))
    section = html(root).split("<h2>Where along t the students lose</h2>")[1].split("<h2>")[0]
    assert "move student.common.p_mean" in section and section.count("<svg") == 1


@pytest.mark.parametrize(("extractor", "name"), [("inception", "FID"), ("dinov2", "FD-DINOv2"), ("exported", "FD")])
def test_the_distance_is_called_by_its_extractor(root: Path, extractor: str, name: str) -> None:
    """Extractors other than our classifier have no held-out accuracy and know no classes."""
    change(root / "results/metrics/evaluate-scd.json", **{"fd@2": 5.0, "accuracy@2": None})
    change(root / "results/runs/reference.json", params={"reference.extractor": extractor})
    (root / "results/metrics/reference.json").write_text(json.dumps({"features": 64}))
    build(fake_project(root))
    page, text = html(root), (root / "results/report.md").read_text()
    for shown in (page, text):
        assert f"sCD in 2 evaluations comes close to its teacher in 35: {name} 5.00, 1." in shown
        assert f"{name} over the teacher" in shown and "did not see" not in shown
    assert f'<th class="n">{name}</th>' in page and f"· consistency · {name} 5.00<" in page
    assert f"| NFE | {name} |" in text


def test_held_out_images_and_nearest_pairs_are_shown(root: Path) -> None:
    build(fake_project(root))
    assert "Held-out images" not in html(root)
    hold_out(root)
    build(fake_project(root))
    page, text = html(root), (root / "results/report.md").read_text()
    assert "| sCD | consistency | 2 | 6.50 | 0.810 | 0.620 | 7.0% |" in text
    assert "| Training images | drawn at random | – | 6.00 | 0.900 | 0.700 | 100.0% |" in text
    assert "| Held-out images | all | – | – | – | – | 5.1% |" in text
    cells = re.findall(r"<td[^>]*>([^<]*)", page[page.index("<h2>Held-out images") : page.index("Nearest pairs")])
    assert "7.0%" in cells and cells[-7:] == ["Held-out images", "all", "–", "–", "–", "–", "5.1%"]
    caption = "2 pairs, distances 0.125 to 0.250; copies have at most 0.200"
    assert page.count(caption) == text.count(caption) == 6
    (root / "results/samples/scd/nearest-2.json").write_text('{"threshold": 0.2, "pairs": []}')
    with pytest.raises(UserError, match=r"nearest-2\.json: pairs = \[\]: has no pairs: "):
        build(fake_project(root))


def test_figures_of_an_older_program_are_refused_in_one_line(root: Path) -> None:
    path = root / "results/metrics/evaluate-teacher.json"
    path.write_text(json.dumps({name: value for name, value in metrics(root, "teacher").items() if name != "fd_floor"}))
    with pytest.raises(UserError, match=r"evaluate-teacher\.json has no figure 'fd_floor': run `scm run`$"):
        build(fake_project(root))


def hold_out(root: Path) -> None:
    """Adds what an evaluation leaves of held-out images."""
    for model in ("teacher", "scd", "sct"):
        found = {"fd_held_out_floor": 6.0, "precision_held_out_floor": 0.9, "recall_held_out_floor": 0.7}
        found["copies_expected"] = 0.051
        for grid in list((root / f"results/samples/{model}").glob("nfe-*.png")):
            nfe = grid.stem.removeprefix("nfe-")
            found |= {f"fd_held_out@{nfe}": 6.5, f"precision_held_out@{nfe}": 0.81}
            found |= {f"recall_held_out@{nfe}": 0.62, f"copies@{nfe}": 0.07}
            shutil.copy(grid, grid.with_name(f"nearest-{nfe}.png"))
            pairs = [{"seed": 1000000, "distance": 0.125}, {"seed": 1000007, "distance": 0.25}]
            grid.with_name(f"nearest-{nfe}.json").write_text(json.dumps({"threshold": 0.2, "pairs": pairs}))
        change(root / f"results/metrics/evaluate-{model}.json", **found)


def test_of_several_ranges_of_seeds_all_distances_are_shown(root: Path) -> None:
    build(fake_project(root))
    assert "of each range of seeds" not in html(root)
    several = {"fd@2": 5.0, "fd_0@2": 5.3, "fd_1@2": 5.0, "fd_2@2": 5.12, "fd_mean@2": 5.14, "fd_std@2": 0.15}
    change(root / "results/metrics/evaluate-scd.json", **several)
    build(fake_project(root))
    assert '<td class="n">5.00 (5.30, 5.00, 5.12)</td>' in html(root) and "of each range of seeds" in html(root)
    assert "| sCD | consistency | 2 | 5.00 (5.30, 5.00, 5.12) | – |" in (root / "results/report.md").read_text()


def test_the_papers_ratios_stand_beside_ones_own(root: Path) -> None:
    change(root / "results/metrics/evaluate-teacher.json", **{"fd@35": 4.0, "mparams": 0.2})
    change(root / "results/metrics/evaluate-scd.json", **{"fd@1": 7.0, "fd@2": 5.0, "mparams": 0.2})
    (_, compute), (_, size) = paper_charts(collect(fake_project(root)), ("red", "blue"))
    assert compute.lines[0] == Line((100 / 35, 200 / 35), (1.75, 1.25), "red", "sCD", points=True)
    assert size.lines[0] == Line([0.2], [1.25], "red", "sCD, 2 NFE", points=True)
    assert [line.label for line in compute.lines[1:]] == [
        "sCT", "paper, sCD, CIFAR-10", "paper, sCD, ImageNet 64", "paper, sCD, ImageNet 512"
    ]  # fmt: skip
    cifar10, _, largest = compute.lines[2:]
    assert cifar10.x == pytest.approx((100 / 35, 200 / 35)) and cifar10.y == pytest.approx((3.66 / 2.15, 2.52 / 2.15))
    assert largest.x == pytest.approx((100 / 126, 200 / 126)) and largest.y == pytest.approx((2.28 / 1.73, 1.88 / 1.73))
    sized = size.lines[-1]
    assert sized.x == (280.2, 497.8, 777.6, 1119.4, 1523.4) and sized.y[0] == pytest.approx(2.50 / 2.29)
    assert size.logarithmic_x and len(size.lines) == 4, "of CIFAR-10 the paper has one size"
    build(fake_project(root, ["teacher"]))
    assert "Compared with the paper" not in html(root)
    (root / "pipelines/paper_tables.yaml").write_text("results: {cifar10: 3}\nsizes: {}\n")
    with pytest.raises(UserError, match=r"pipelines/paper_tables\.yaml: .* restore it"):
        build(fake_project(root))


def test_a_choice_at_the_edge_of_the_candidates_is_said(root: Path) -> None:
    build(fake_project(root))
    assert "at the edge" not in html(root)
    change(root / "results/metrics/select-scd.json", sigma_rel=0.25)
    build(fake_project(root))
    assert html(root).count("sCD: chosen σ_rel 0.25, t_mid 0.8; at the edge of the candidates: σ_rel</b>") == 1
    change(root / "results/metrics/select-scd.json", t_mid=0.6)
    build(fake_project(root))
    assert html(root).count("sCD: chosen σ_rel 0.25, t_mid 0.6; at the edge of the candidates: σ_rel, t_mid</b>") == 1


def guided(root: Path) -> None:
    """sCD chose among three scales after a first look; the teacher is imported, and its average's length is unknown."""
    lines = ["sigma_rel,steps,guidance,t_mid,samples,fd,noise"]
    for length, times in itertools.product((0.03, 0.05, 0.1, 0.2), (0.6, 0.8)):
        for scale in (1.0, 1.4, 1.8):
            fd = 5 + 8 * abs(scale - 1.4) + 3 * abs(times - 0.8) + 4 * abs(math.log(length / 0.1))
            lines.append(f"{length},2,{scale},{times},500,{fd * 0.2},")
            if fd < 12:
                lines.append(f"{length},2,{scale},{times},2000,{fd},0.3")
    lines += ["0.1,2,1.6,0.8,2000,7.0,0.3", "0.1,1,1.4,,2000,8.0,0.2", "0.1,1,1.8,,2000,7.5,0"]
    (root / "results/curves/select-scd.csv").write_text("\n".join(lines) + "\n")
    choice = {"sigma_rel": 0.1, "guidance": 1.4, "t_mid": 0.8, "samples": 2000, "fd": 5.0}
    choice |= {"candidates": 19, "within_noise": 2, "guidance_1step": 1.8, "fd_1step": 7.5}
    (root / "results/metrics/select-scd.json").write_text(json.dumps(choice))
    (root / "results/curves/select-teacher.csv").write_text("guidance,fd\n1.0,9.0\n1.5,4.0\n2.0,3.0\n")
    (root / "results/metrics/select-teacher.json").write_text(json.dumps({"guidance": 2.0, "fd": 3.0}))


def test_guidance_scales_have_a_line_each_and_first_looks_none(root: Path) -> None:
    guided(root)
    build(fake_project(root))
    text = html(root)
    chosen = "sCD: chosen σ_rel 0.1, t_mid 0.8, guidance 1.4; in 1 step guidance 1.8"
    assert f"{chosen}; at the edge of the candidates: t_mid; 2 of 19 candidates are within the noise</b>" in text
    assert "Teacher: chosen guidance 2; at the edge of the candidates: guidance</b>" in text
    assert "Teacher: Fréchet distance over guidance" in text and "sCT: Fréchet distance over σ_rel" in text
    assert all(f"2 steps, guidance {scale}" in text for scale in ("1", "1.4", "1.6", "1.8"))
    assert text.count("dropped after a first look at fewer samples") == 1
    findings = collect(fake_project(root))
    rows = [row for row in findings.selection["scd"] if row["samples"] == 2000 and row["steps"] == 2]
    scales = selection_lines(rows, findings.choices["scd"], "sigma_rel")
    assert [(line.label, list(line.x)) for line in scales] == [
        ("2 steps, guidance 1", [0.05, 0.1, 0.2]), ("2 steps, guidance 1.4", [0.03, 0.05, 0.1, 0.2]),
        ("2 steps, guidance 1.6", [0.1]), ("2 steps, guidance 1.8", [0.05, 0.1, 0.2]),
    ]  # fmt: skip
    assert min(scales[1].y) == 5.0


def test_the_data_are_counted_and_shown(root: Path) -> None:
    build(fake_project(root))
    said = (
        "1,797 images in 10 classes of 174 to 183 images, scaled to 8×8 pixels, grey; 3 were smaller. "
        "2 files left out (2 × not an image file)."
    )
    assert said in html(root) and said in (root / "results/report.md").read_text()
    assert '<td class="wrap">9</td><td class="n">183</td>' in html(root)
    assert '<td class="wrap">4 to 7 px</td><td class="n">3</td>' in html(root)
    classes = [{"name": f"<{number}>", "images": 7} for number in range(21)]
    change(root / "results/samples/prepare/data.json", classes=classes, skipped=0, skipped_reasons=[])
    build(fake_project(root))
    assert "in 21 classes of 7 images" in html(root) and "<b>Classes</b>" not in html(root)
    change(root / "results/samples/prepare/data.json", channels=3)
    build(fake_project(root))
    assert "0 files left out. All images are grey." in html(root)
    change(root / "results/samples/prepare/data.json", channels=1, in_colour=1200)
    build(fake_project(root))
    assert "0 files left out. 1,200 images were in colour." in html(root)
    (root / "results/samples/prepare/contact.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"contact\.png is missing or empty: delete it and run"):
        build(fake_project(root))


def test_the_page_is_whole_and_needs_nothing_else(root: Path) -> None:
    build(fake_project(root))
    tags = Tags(html(root))
    assert tags.open == []
    assert tags.counts["img"] == 3 + 6 + 1, "the first pictures, the grids and the contact sheet"
    assert tags.counts["svg"] == 2 + 5 + 8 + 8 + 1 + 1 + 3, "the teacher has no tangents"
    assert "script" not in tags.counts and "link" not in tags.counts
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in tags.links)
    assert not re.search(r"url\((?!#)|@import|https?://", html(root))


def test_the_same_files_make_the_same_page(root: Path, drawn: dict[str, str]) -> None:
    build(fake_project(root, ["teacher", "scd"]))
    first = html(root)
    drawn.clear()
    build(fake_project(root, ["teacher", "scd"]))
    assert html(root) == first


def test_what_the_trainings_found_wrong_is_told(root: Path) -> None:
    build(fake_project(root))
    assert "unusual" not in html(root) and "Training health" not in (root / "results/report.md").read_text()
    for name in ("train_teacher", "train_student@scd", "train_student@sct"):
        change(root / f"results/runs/{name}.json", health=[])
    build(fake_project(root))
    assert "<p>Nothing unusual was found in any training.</p>" in html(root)
    change(root / "results/runs/train_student@scd.json", health=["the gradient's norm < rose"])
    change(root / "results/runs/train_teacher.json", health=["9 steps skipped"])
    build(fake_project(root))
    assert "<p>Teacher: 9 steps skipped.</p>\n<p>sCD: the gradient&#39;s norm &lt; rose.</p>" in html(root)
    assert (
        "- Teacher: 9 steps skipped.\n- sCD: the gradient's norm \\< rose.\n"
        in (root / "results/report.md").read_text()
    )
    assert "unusual" not in html(root)


def test_everything_is_escaped(root: Path) -> None:
    project = fake_project(root)
    project.params.preset = "<script>alert(1)</script>"
    for name in ("prepare", "evaluate@sct"):
        change(root / f"results/runs/{name}.json", machine="<b>&", device='"><img>', chain={"<i>": "</table>"})
    build(project)
    tags = Tags(html(root))
    assert "script" not in tags.counts and "i" in tags.counts and tags.counts["img"] == 10
    assert "&lt;b&gt;&amp;" in html(root) and "<code>&lt;i&gt;</code>" in html(root)
    assert r"\<script\>" in (root / "results/report.md").read_text()


def test_parameters_that_differ_say_whose_they_are(root: Path) -> None:
    for model, rate in (("scd", 0.25), ("sct", 0.5)):
        change(root / f"results/runs/evaluate@{model}.json", chain={"seed": 3, "student.dropout": rate})
    change(root / "results/runs/evaluate@teacher.json", chain={"seed": 3}, params={})
    build(fake_project(root))
    cells = re.findall(r"<td><code>([^<]*)</code></td><td class=\"wrap\"><code>([^<]*)</code>", html(root))
    assert ("student.dropout", "sCD: 0.25, sCT: 0.5") in cells
    assert ("evaluate.samples", "sCD: 1797, sCT: 1797") in cells


def test_only_the_configured_models_are_shown(root: Path) -> None:
    build(fake_project(root, ["teacher", "scd"]))
    assert "sCT" not in html(root)
    build(fake_project(root, ["teacher"]))
    assert "Teacher in 35 evaluations has a Fréchet distance of" in html(root)


@pytest.mark.parametrize(
    "missing",
    [
        "metrics/reference.json",
        "metrics/evaluate-scd.json",
        "metrics/select-sct.json",
        "curves/train-teacher.csv",
        "curves/select-scd.csv",
        "curves/progress-scd.csv",
        "curves/by-time-sct.csv",
        "samples/sct/nfe-1.png",
        "runs/encode.json",
        "runs/evaluate@scd.json",
    ],
)
def test_missing_and_empty_files_are_named(root: Path, missing: str) -> None:
    path = root / "results" / missing
    path.write_text("")
    with pytest.raises(UserError, match=re.escape(str(path))):
        build(fake_project(root))
    path.unlink()
    with pytest.raises(UserError, match=re.escape(f"{path} is missing: run `scm run` first")):
        build(fake_project(root))
    assert not (root / "results/report.html").exists()


def test_missing_figures_are_named(root: Path) -> None:
    path = root / "results/metrics/evaluate-teacher.json"
    figures = metrics(root, "teacher")
    for missing in ("mparams", "kid@2", "precision@2", "recall@35"):
        path.write_text(json.dumps({key: value for key, value in figures.items() if key != missing}))
        with pytest.raises(UserError, match=rf"evaluate-teacher.json has no figure '{missing}'"):
            build(fake_project(root))
    with pytest.raises(UserError, match="does not name the teacher"):
        build(fake_project(root, ["scd"]))


def test_numbers_read_well() -> None:
    shown = [number(value) for value in (0.0914, 1.0, 5.3, 99.96, 233.4, 5450.2, 3e-9, 0.0)]
    assert shown == ["0.0914", "1.00", "5.30", "100", "233", "5,450", "3.00e-09", "0.00"]
    assert [duration(value) for value in (6.21, 148, 11100)] == ["6.2 s", "2 min 28 s", "3 h 05 min"]
    assert [image_count(value) for value in (131072, 3 * 2**20, 512)] == ["128Ki", "3Mi", "512"]


def test_a_chart_takes_the_pages_colours_and_thins_long_lines() -> None:
    count = 5000
    line = Line(range(count), [1.0 + index % 7 for index in range(count)], "#228be6", "a < b")
    text = svg(Chart('T "1"', IMAGES, [line], logarithmic=True, mark=(100.0, 2.0)))
    assert 'aria-label="T &quot;1&quot;"' in text and "currentColor" in text and "a &lt; b" in text
    assert "<style" not in text and "#010203" not in text and len(text) < 40_000
    assert text.startswith("<svg viewBox=") and "width=" not in text[: text.index(">")]
