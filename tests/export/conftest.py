"""A project with small random students, and its student scd exported to ONNX with the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scm import cli
from scm.base import weights
from scm.errors import UserError
from scm.export import browser
from tests.support import projects as shipped
from tests.support.models import save_model, tiny_model


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "project"
    folder.mkdir()
    shipped.make_project(folder)
    save_model(folder, "teacher", label_dropout=0.1)
    save_model(folder, "scd", seed=1, t_mid=0.8, guidance=[1.0, 2.0], scale=1.6, scale_1step=1.2)
    save_model(folder, "sct", seed=3, classes=[])
    save_model(folder, "multistep", segments=2)
    path, net = folder / "models/multistep/model.safetensors", tiny_model(2, segments=True)
    weights.save(path, net.state_dict(), weights.read_header(path) | {"network": net.settings.to_dict()})
    return folder


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def web(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `scm export --to onnx`; its page is left out where onnxruntime-web cannot be fetched."""
    folder = tmp_path_factory.mktemp("onnx") / "web"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        options = ["export", "--to", "onnx", "--model", "scd", str(folder)]
        try:
            archive = browser.fetched()
            patch.setattr(browser, "fetched", lambda: archive)
        except UserError:
            options.append("--no-page")
        assert cli.main(options) == 0
    yield folder
