"""What DVC's own tables and plots show of a finished run, read from dvc.yaml by DVC itself."""

import re
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scm.base.files import write_csv
from scm.pipeline.stage import Stage
from scm.report.plots import write_plots
from scm.results.reading import FIRST_SIGHT
from tests.support.fake_results import FIGURES, MODELS, write_fake_results
from tests.support.projects import make_project

ROOT = Path(__file__).parents[2]
NAMES = ("fd", "fd_inf", "kid", "precision", "recall", "accuracy", "images_per_second", "copies")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("views")
    make_project(root)
    write_fake_results(root, rows=1)
    shutil.copy(ROOT / "dvc.yaml", root)
    shutil.copytree(ROOT / ".dvc/plots", root / ".dvc/plots")
    (root / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n", encoding="utf-8"
    )
    for model, measured in FIGURES.items():
        own = "squared_error" if model == "teacher" else "sample_fd"
        write_csv(root / f"results/curves/train-{model}.csv", [{"images": 4096, own: 0.3}])
        rows = [{"images": images, "fd": 1e5 / images} for images in (4096, 8192)]
        write_csv(root / f"results/curves/progress-{model}.csv", rows)
        project = cast(Any, SimpleNamespace(root=root))
        stage = Stage("evaluate", model, project, cast(Any, None), root)
        stage.figures({f"{name}@{steps}": 0.5 for name in NAMES for steps in measured} | {"mparams": 0.09})
    write_plots(root, MODELS)
    with chdir(root), Repo(str(root)) as opened:
        yield opened


def test_the_metrics_are_few_and_have_short_names_of_their_own(repo: Any) -> None:
    found = [file["data"] for file in repo.metrics.show()[""]["data"].values()]
    assert [list(figures) for figures in found] == [[model] for model in MODELS]
    columns = [f"{model}.{name}" for figures in found for model, own in figures.items() for name in own]
    assert columns == [
        f"{model}.{name}@{steps}" for model in MODELS for name in FIRST_SIGHT for steps in sorted(FIGURES[model])
    ]
    assert len(columns) == 24 and max(map(len, columns)) <= 20


def test_make_exps_keeps_the_distances_and_drops_what_is_no_result_or_parameter() -> None:
    line = re.search(r"exp show .*", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert line and "--only-changed" in line[0]
    keep, drop = (re.compile("|".join(re.findall(rf"--{name} '(.*?)'", line[0]))) for name in ("keep", "drop"))
    assert keep.match("scd.fd@2") and not drop.match("scd.fd@2")
    for column in ("scd.precision@2", "teacher.recall@35", "stages/evaluate.py", "models/scd/sampling.json"):
        assert drop.match(column) and not keep.match(column)
    for column in ("student.scd.images", "teacher.lr.max", "Created"):
        assert not drop.match(column) and not keep.match(column)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what DVC uses
def test_each_plot_has_points_and_each_grid_is_an_image(repo: Any) -> None:
    from dvc.render.match import match_defs_renderers

    plots = {}
    for plot, source_errors, definition_errors in match_defs_renderers(
        repo.plots.show(), templates_dir=repo.plots.templates_dir
    ):
        assert not source_errors and not definition_errors and plot.datapoints
        plots[plot.name] = plot
    assert "<DVC_METRIC" not in "".join(plot.partial_html() for plot in plots.values() if plot.TYPE == "vega")
    first, *others = plots
    assert {point["model"] for point in plots[first].datapoints} == set(MODELS)
    curves = {
        f"results/curves/{kind}-{model}.csv" for kind in ("train", "select", "progress", "by-time") for model in MODELS
    }
    grids = {f"results/samples/{model}/nfe-{steps}.png" for model in MODELS for steps in FIGURES[model]}
    assert set(others) == curves | grids
    assert {name for name, plot in plots.items() if plot.TYPE == "image"} == grids
