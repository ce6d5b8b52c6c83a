"""`scm publish` against MLflow's server with PostgreSQL: once, twice, and of two checkouts at the same moment."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from scm.errors import UserError
from scm.params.project import Project
from scm.product import packaging
from scm.publishing import publish as publishing
from scm.publishing.entry import champion_in
from scm.tracking import sending, store
from scm.tracking.registry import CHALLENGER, CHAMPION, Registry
from tests.services.conftest import Server
from tests.support.fake_candidate import make_candidates, set_param, write_candidate

pytestmark = [pytest.mark.slow, pytest.mark.long]
FIRST, BETTER, BEST = (5.0, 5.2, 5.1), (4.0, 4.2, 4.1), (3.0, 3.2, 3.1)


def log_version(project: Project, model: str, tags: dict[str, str], alias: str) -> str:
    """Stands in for scm.product.packaging.log_version; stores no files."""
    client, name = store.connect(project.tracking), project.params.registered_name
    with suppress(MlflowException):  # it is there
        client.create_registered_model(name)
    run = sending.run_of(client, tags["scm.run_key"])
    return str(client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags).version)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_candidates(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def checkouts(template: Path, server: Server, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of one project, each with its own lock, that publish under a name of this test's."""
    roots = tmp_path / "a", tmp_path / "b"
    for root in roots:
        shutil.copytree(template, root)
        set_param(root, "mlflow.uri", server.address)
        set_param(root, "publish.name", f"digits-{tmp_path.name}")
    return roots


def publish(root: Path) -> Any:
    return publishing.publish(Project.open(root))


def registry(root: Path) -> Registry:
    return publishing.open_registry(Project.open(root))


@pytest.mark.parametrize("meet", ["before the versions are made", "before the alias moves"])
def test_of_two_machines_at_once_the_champion_is_better_than_before_and_the_best_after_a_repeat(
    checkouts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, meet: str
) -> None:
    """Between the last look at the champion and the move of its alias two machines can overtake each other."""
    monkeypatch.setattr(packaging, "log_version", log_version)
    first, second = checkouts
    write_candidate(first, FIRST, "one")
    assert publish(first).version == "1"
    write_candidate(first, BETTER, "two")
    write_candidate(second, BEST, "three")
    barrier = threading.Barrier(2, timeout=120)
    owner, name = (packaging, "log_version") if meet.endswith("made") else (Registry, "move_champion")
    real = getattr(owner, name)

    def met(*arguments: Any) -> Any:
        barrier.wait()
        return real(*arguments)

    said: dict[Path, str] = {}

    def work(root: Path) -> None:
        try:
            said[root] = publish(root).verdict.kind
        except UserError as error:
            said[root] = str(error)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, met)
        threads = [threading.Thread(target=work, args=(root,)) for root in checkouts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = registry(first)
    champion, versions = champion_in(found), found.versions()
    assert champion is not None and round(champion.mean(2), 6) in (4.1, 3.1) and champion.version in ("2", "3")
    assert [version.number for version in versions] == ["1", "2", "3"]
    assert "promoted" in said.values()
    for text in said.values():
        assert text == "promoted" or f"became version {champion.version} meanwhile (it was 1): run the command" in text
    assert {publish(root).verdict.kind for root in checkouts} <= {"promoted", "challenger", "unchanged"}
    champion = champion_in(found)
    assert champion is not None and round(champion.mean(2), 6) == 3.1
    assert found.holder(CHALLENGER) != found.holder(CHAMPION) and len(found.versions()) == 3
    assert [publish(root).verdict.kind for root in checkouts] == ["challenger", "unchanged"]
    assert len(found.versions()) == 3
