"""MLflow's pages in a real browser, as `scm ui` starts them: the list of evaluations, a comparison, and a version."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from scm.params.project import Project
from scm.publishing import publish as publishing
from scm.tracking import store, sync, view
from tests.services.conftest import free_port, wait_for
from tests.support import chromium
from tests.support.fake_candidate import change_run, log_version, make_candidates, write_candidate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine"),
]
CHAIN = {"data.source": "digits", "data.path": "data/raw", "teacher.images": "192Ki", "student.images": "8Ki"}
NAME = "evaluate@scd · teacher.images=192Ki · 29212f2"


@dataclass(frozen=True)
class Pages:
    """The address that `scm ui` printed, and its process."""

    list: str
    process: int

    def at(self, place: str) -> str:
        return f"{self.list.partition('#')[0]}#{place}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all its runs in MLflow and a published model."""
    root = make_candidates(tmp_path_factory.mktemp("pages") / "project")
    write_candidate(root, chain=CHAIN, name=NAME)
    change_run(root, "evaluate@sct", chain=CHAIN, name=NAME.replace("scd", "sct"))
    change_run(root, "encode", deps={"data/shards": "1424ad43e67b20c10be33ef18dff5fa3.dir"})
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith(("MLFLOW", "DVC_"))]:
            patched.delenv(name)
        patched.setattr("scm.product.packaging.log_version", log_version)
        project = Project.open(root)
        sync.sync(project)
        publishing.publish(project)
    return root


@pytest.fixture(scope="module")
def pages(root: Path) -> Iterator[Pages]:
    port, environment = free_port(), {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    command = [sys.executable, "-m", "scm.cli", "ui", "--port", str(port)]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for("MLflow's pages", lambda: _answers(port))
            line = next(line for line in (root / "log").read_text().splitlines() if line.startswith("MLflow's pages"))
            yield Pages(line.rpartition(" ")[2], process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def said(tab: chromium.Browser) -> str:
    return tab.value("document.body.innerText")


def test_the_list_shows_evaluations_by_what_changed_with_their_figures(tab, pages) -> None:
    tab.open(pages.list, 2000, 900)
    tab.wait("document.querySelectorAll('[role=columnheader]').length > 6 && document.body.innerText.includes('192Ki')")
    heads = tab.value("[...document.querySelectorAll('[role=columnheader]')].map(each => each.innerText.trim())")
    shown = [head for head in heads if head]
    assert {"Run Name", "fd_at_1", "fd_at_2", "recall_at_2", "student_images", "teacher_images", "Dataset"} <= {*shown}
    tab.wait("document.body.innerText.includes('3 matching runs')")
    text = said(tab)
    assert NAME in text and "1424ad43e67b" in text and "train_teacher" not in text
    assert "196608" in text and "8192" in text, "budgets are numbers"


def test_a_comparison_begins_with_the_distance(tab, pages, root) -> None:
    client = store.connect(Project.open(root).tracking)
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment], view.EVALUATIONS)
    chosen = [run.info.run_id for run in runs if run.data.tags["scm.item"] != "teacher"]
    query = f"runs={quote(json.dumps(chosen))}&experiments={quote(json.dumps([experiment]))}"
    tab.open(pages.at(f"/compare-runs?{query}"), 1400, 2600)
    tab.wait("document.body.innerText.includes('more/accuracy_at_1')")
    _, _, metrics = said(tab).rpartition("Metrics\n")
    assert metrics.index("fd_at_1") < metrics.index("fd_at_2") < metrics.index("more/accuracy_at_1")
    assert "accuracy" not in said(tab).partition("Run details")[0], "the plot draws the distance"


def test_a_version_says_verdict_and_figures(tab, pages) -> None:
    tab.open(pages.at("/models/digits/versions/1"), 1400, 1200)
    tab.wait("document.body.innerText.includes('the first champion')")
    assert "fd@2 5.1 ± 0.1 (3 ranges): the first champion, scd of preset digits" in said(tab)
    tab.wait("[...document.querySelectorAll('td')].some(cell => cell.innerText.trim() === 'fd@2 (decides)')")


def test_no_process_waits_for_jobs_and_no_other_address_is_printed(pages, root) -> None:
    group = subprocess.check_output(["ps", "-o", "args=", "-g", str(pages.process)], text=True)
    assert "mlflow" in group and not any(word in group for word in ("huey", "job"))
    assert (root / "log").read_text().count("http://") == 1
