"""From the gate to the page's server: `scm publish` packages the champion, and `scm serve` finds and draws with it."""

import hashlib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scm import cli
from scm.params import dump, load
from scm.product.model import Product
from scm.product.serving import located
from scm.results.fingerprint import inputs_of
from tests.support.fake_candidate import change_run, make_candidates, write_candidate
from tests.support.models import save_model

MEASURED = ("models/scd/model.safetensors", "models/scd/sampling.json")


def with_networks(root: Path) -> Path:
    """The candidate of the gate's tests with weights that draw: dvc.lock and the run file say so."""
    write_candidate(root)
    save_model(root, "teacher", label_dropout=0.1)
    save_model(root, "scd", seed=1, t_mid=0.8)
    yaml, lock = YAML(typ="safe", pure=True), root / "dvc.lock"
    content = yaml.load(lock.read_text())
    for out in content["stages"]["all"]["outs"]:
        if out["path"] in MEASURED:
            out["md5"] = hashlib.md5((root / out["path"]).read_bytes()).hexdigest()
    with lock.open("w") as file:
        yaml.dump(content, file)
    inputs = inputs_of(root, "evaluate", "scd", dump(load(root / "params.yaml")))
    change_run(root, "evaluate@scd", key=inputs.key, deps=inputs.dependencies)
    return root


@pytest.mark.slow
def test_what_the_gate_promotes_is_what_is_served(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "project").mkdir()
    root = with_networks(make_candidates(tmp_path / "project"))
    monkeypatch.chdir(root)
    assert cli.main(["publish"]) == 0, capsys.readouterr()
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        with located(None) as (uri, shown):
            assert uri == shown == "models:/digits@champion"
            model = mlflow.pyfunc.load_model(uri)
    finally:
        mlflow.set_tracking_uri(before)
    assert not (root / "mlruns").exists()
    product = model.unwrap_python_model().product
    assert isinstance(product, Product) and product.content.name == "scd"
    assert product.draw([product.wish({"class": "one", "seed": 3, "steps": 2})])[0]["model"] == "scd"
    assert cli.main(["publish"]) == 0  # the same candidate: no second version
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    assert [version.version for version in client.search_model_versions("name = 'digits'")] == [1]
    moved = root.rename(tmp_path / "moved 1%")
    monkeypatch.chdir(moved)
    try:
        with located(None) as (uri, _):
            assert mlflow.pyfunc.load_model(uri).unwrap_python_model().product.content.name == "scd"
    finally:
        mlflow.set_tracking_uri(before)
    assert not root.exists()
